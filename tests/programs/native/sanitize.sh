#!/usr/bin/env bash
# The C under sanitizers: the ring under ThreadSanitizer, in a plain C program; the module under
# AddressSanitizer and UndefinedBehaviorSanitizer, in the tests. `make sanitize`, with PYTHON's venv.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python=$1
cc=${CC:-gcc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# ThreadSanitizer does not know fences (-Wno-tsan): what they order beyond acquire and release, the model
# checks, and a lost wake-up hangs here.
"$cc" -std=gnu11 -O1 -g -Wall -Wextra -Wno-tsan -fsanitize=thread tests/programs/native/ring_threads.c \
  -o "$folder/ring_threads" -pthread
timeout 100 "$folder/ring_threads" 300000

cp -r src/shmchannel "$folder/shmchannel"
rm -f "$folder"/shmchannel/_native*.so
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
"$cc" -std=c11 -O1 -g -fno-omit-frame-pointer -Wall -Wextra -Wno-missing-field-initializers -shared -fPIC \
  -fsanitize=address,undefined -fno-sanitize-recover=undefined -I"$include" \
  src/shmchannel/native/module.c -o "$folder/shmchannel/_native$suffix"
# Python's own allocator hides overflows within its arenas; what it leaks at exit is its own matter.
export PYTHONPATH=$folder PYTHONMALLOC=malloc ENGINES=c DEADLINE=600
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1
LD_PRELOAD="$("$cc" -print-file-name=libasan.so) $("$cc" -print-file-name=libubsan.so)"
export LD_PRELOAD
"$python" -c "
import shmchannel
assert shmchannel.native and shmchannel.__file__.startswith('$folder'), shmchannel.__file__"
# Not the tests of memory: the sanitizer keeps what is freed.
"$python" -m pytest -q -o faulthandler_timeout=0 tests/test_ring.py tests/test_codec.py tests/test_graph.py \
  tests/test_types.py tests/test_builtin_exceptions.py tests/test_engines_agree.py \
  tests/test_interfaces.py tests/test_dataclasses.py tests/test_hostile.py tests/test_corruption.py tests/test_native.py \
  --deselect tests/test_native.py::test_a_million_messages_leave_no_reference_behind \
  --deselect tests/test_native.py::test_ports_that_come_and_go_leave_nothing
