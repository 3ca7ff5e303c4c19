#!/usr/bin/env bash
# Makes FOLDER/python: an ARM machine's Python 3.11 with what npgpt needs, which runs here by QEMU's emulation.
#
#     bash tests/emulated_arm.sh FOLDER && NPGPT_ARM=FOLDER/python python -m pytest --slow tests/test_arm.py
#
# For Debian, as root: it installs qemu-user-static and lets the kernel start ARM programs (binfmt_misc), so that tests
# can start processes. All else is in FOLDER, some 500 MB. An emulated machine is about 30 times slower than this one.
set -euo pipefail
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$folder"

dpkg --add-architecture arm64
apt-get update -qq
apt-get install -y -qq qemu-user-static
packages=(libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libbz2-1.0 liblzma5 libssl3 libffi8 libsqlite3-0 libgomp1 libuuid1
    libcrypt1 libncursesw6 libtinfo6 libreadline8 python3.11 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib)
apt-get download -qq "${packages[@]/%/:arm64}"
for package in *.deb; do dpkg -x "$package" root; done

platforms=(manylinux_2_28_aarch64 manylinux_2_27_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64)
python3 -m pip download -q --dest wheels --only-binary=:all: --python-version 3.11 --implementation cp \
    "${platforms[@]/#/--platform=}" numpy numba tiktoken tqdm pytest hypothesis
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done

binfmt=/proc/sys/fs/binfmt_misc
[ -e $binfmt/register ] || mount binfmt_misc -t binfmt_misc $binfmt
# An ELF program of machine 0xb7, which is AArch64.
[ -e $binfmt/qemu-aarch64 ] || printf '%s' ':qemu-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' >$binfmt/register

cat >python <<END
#!/bin/sh
QEMU_LD_PREFIX=$folder/root PYTHONPATH="\$PYTHONPATH:$folder/site" exec $folder/root/usr/bin/python3.11 "\$@"
END
chmod +x python
./python -c 'import numba, platform; print(platform.machine(), "numba", numba.__version__)'
