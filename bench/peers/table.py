"""The peers: the modes in which torch does the work, and how far their losses may be from npgpt's."""

from dataclasses import dataclass

# How far losses may be apart, relatively. In float32 they stay within 1e-5 for a hundred steps; without the clipping
# they are 2e-3 apart after 25.
FLOAT32 = 1e-3
# A number in bfloat16 has 8 bits, so rounding changes it by up to 2^-9 = 2e-3. In the mean over all tokens that leaves
# 1e-4 of the first losses. It grows from step to step as in float32, only from so much more: after 120 steps of the
# preset nanogpt-cpu, losses were 2e-2 apart, and without the clipping 8e-2.
BFLOAT16 = 5e-2


@dataclass(frozen=True)
class Peer:
    """A mode of torch, and the tolerance that follows from it."""

    tolerance: float = FLOAT32
    autocast: bool = False
    compile: bool = False
    matmul_precision: str = "highest"

    def mode(self) -> dict:
        """The mode, as the measured process reads it."""
        return {"autocast": self.autocast, "compile": self.compile, "matmul_precision": self.matmul_precision}


PEERS = {
    "torch": Peer(),
    "torch-compile": Peer(compile=True),
    "torch-autocast": Peer(BFLOAT16, autocast=True),
    "torch-autocast-compile": Peer(BFLOAT16, autocast=True, compile=True),
    "torch-medium": Peer(BFLOAT16, matmul_precision="medium"),
}
