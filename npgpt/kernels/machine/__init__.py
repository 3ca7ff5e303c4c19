"""What reaches below Numba's surface. Nothing else in npgpt knows LLVM, a C library or an instruction set."""
