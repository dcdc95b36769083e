"""Hand work from one shell to another, by the name of a channel.

    $ python examples/handoff.py create "first job" "second job"
    shmch-...
    $ python examples/handoff.py attach shmch-...          # in another shell, now or later
    {'job': 1, 'text': 'first job'}
    {'job': 2, 'text': 'second job'}

`create` writes the jobs, prints the handle and exits. The channel stays until `attach` comes.
"""

import argparse
import signal
import sys

from shmchannel import Channel, ChannelError


def create(texts: list[str]) -> None:
    channel = Channel(linger=True)
    print(channel.handle)
    with channel.connect() as port:
        for number, text in enumerate(texts, start=1):
            # Nobody reads yet, so waiting for room would never end: a full ring is an error here.
            port.write_nowait({"job": number, "text": text})


def attach(handle: str) -> None:
    with Channel.from_handle(handle).connect() as port:
        for message in port:
            print(message)


def main() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly once nobody reads the output
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="create|attach")
    command = commands.add_parser("create", help="write messages, print the handle, exit")
    command.add_argument("argument", nargs="*", metavar="TEXT", default=["hello", "from", "another shell"])
    command.set_defaults(run=create)
    command = commands.add_parser("attach", help="print what was written to a handle")
    command.add_argument("argument", metavar="HANDLE")
    command.set_defaults(run=attach)
    options = parser.parse_args()
    try:
        options.run(options.argument)
    except KeyboardInterrupt:
        sys.exit(130)
    except ChannelError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
