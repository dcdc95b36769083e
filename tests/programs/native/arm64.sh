#!/usr/bin/env bash
# Tests on arm64, by qemu, with the C cross-compiled. `make arm64`, with PYTHON's venv.
#
# ARM64 is an arm64 CPython 3.14 that runs here, with its headers beside it. qemu shows no weak memory order: that is
# what docs/model/arm.py is for. What is installed stays in FOLDER.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=$1 arm64=$2 folder=$3
shift 3
cc=aarch64-linux-gnu-gcc
command -v "$cc" >/dev/null && "$arm64" -c 'import platform; assert platform.machine() == "aarch64"' || {
  echo "no $cc, or $arm64 is no Python for arm64 that runs here: see CONTRIBUTING.md" >&2
  exit 2
}
# The standard library may come uncompiled; to compile it in each process takes longer than all else.
unset PYTHONDONTWRITEBYTECODE
prefix=$(dirname "$(dirname "$(dirname "$arm64")")")
compile=("$cc" -shared -fPIC -O2 -g0 -Wall -I"$prefix/usr/include/python3.14" -I"$prefix/usr/include")
suffix=.cpython-314-aarch64-linux-gnu.so

site=$folder/site
if [ ! -e "$folder/installed" ]; then
  mkdir -p "$folder"
  pip=("$python" -m pip --quiet --disable-pip-version-check)
  "${pip[@]}" install --target "$site" --python-version 3.14 --only-binary :all: --platform manylinux_2_28_aarch64 \
    --platform manylinux2014_aarch64 pytest hypothesis msgpack
  # posix_ipc has no wheel for arm64. What it asks of the system it asks of this one, which is a Linux too.
  "${pip[@]}" download --no-deps --no-binary :all: --dest "$folder" posix_ipc
  tar -xzf "$folder"/posix_ipc-*.tar.gz -C "$folder"
  (
    cd "$folder"/posix_ipc-*/
    "$python" -c 'from build_support.discover_system_info import discover; discover()' >/dev/null
    "${compile[@]}" src/posix_ipc_module.c -o "$site/posix_ipc$suffix"
  )
  touch "$folder/installed"
fi
rm -rf "$site/shmchannel"
cp -r src/shmchannel "$site"
rm -f "$site"/shmchannel/_native*.so
"${compile[@]}" -O3 -std=c11 -Wextra -Wno-missing-field-initializers -Werror src/shmchannel/native/module.c \
  -o "$site/shmchannel/_native$suffix"

export PYTHONPATH=$site
# Everything takes many times as long.
DEADLINE=600 "$arm64" -m pytest -q -p no:cacheprovider "$@"
