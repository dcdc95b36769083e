#!/bin/sh
# Filter messages between two Python programs in a shell: `shmchannel cat | ... | shmchannel tee`.
#
#     sh examples/pipeline.sh
#
# One program writes readings to a channel. grep keeps the readings of the sensor "b". Another program adds up the
# values that arrive on a second channel. Neither program knows of the shell. Prints "3 readings, sum 9".
# Set PYTHON to a Python that has shmchannel.
set -eu
python=${PYTHON:-python3}
source=$("$python" -m shmchannel create)
sink=$("$python" -m shmchannel create)

"$python" -c '
import sys
from shmchannel import Channel

with Channel.from_handle(sys.argv[1]).connect() as port:
    for number in range(7):
        port.write_sync({"sensor": "ab"[number % 2], "value": number})
' "$source" &

"$python" -m shmchannel cat "$source" | grep '"sensor": "b"' | "$python" -m shmchannel tee "$sink" > /dev/null &

"$python" -c '
import sys
from shmchannel import Channel

with Channel.from_handle(sys.argv[1]).connect() as port:
    values = [reading["value"] for reading in port]
    print(f"{len(values)} readings, sum {sum(values)}")
' "$sink"
wait
