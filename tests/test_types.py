"""The table of types is the documented one; a value of them that would not come back alike is refused."""

from __future__ import annotations

import contextlib
import decimal
import fractions
import gc
import importlib
import io
import re
import struct
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from shmchannel import CloneError, RemoteError
from shmchannel.codec import types
from shmchannel.codec.types import INSTANCE, LEAVES, MOVED, PARTS, VIEW_CODE, is_known
from support.documented import MODULES, ROWS
from support.engines import decode, encode, in_program, in_use
from support.values import alike

pytestmark = pytest.mark.usefixtures("packer")


@pytest.mark.parametrize(("name", "example", "wire"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_documented_table(name: str, example: str, wire: str) -> None:
    if not example:
        return
    names = {module: importlib.import_module(module) for module in MODULES}
    value = eval(example, names)
    kind = ValueError if "exceptions" in name else eval(name, names)
    assert value is kind is None or isinstance(value, OSError if kind is ValueError else kind)
    assert alike(decode(encode(value)), value)
    assert alike(decode(encode([value, [value]])), [value, [value]])
    code = re.match(r"ext (\d+)", wire)
    if code is None:
        plain = msgpack.unpackb(encode(value), use_list=name != "dict", strict_map_key=False)
        assert alike(plain, value) or name == "dict"  # whose example has a tuple in it
    elif name.strip() in ("bytearray", "built-in exceptions", "collections.defaultdict"):
        assert msgpack.unpackb(encode(value)).code == 127
    elif "as a tag" in wire:
        assert f"ExtType(code={code[1]}, data=b'\\x00')" in repr(unwrapped(encode(value)))
    else:
        assert msgpack.unpackb(encode(value)).code == int(code[1])


def unwrapped(payload: bytes) -> Any:
    wrapper = msgpack.unpackb(payload)
    assert wrapper.code == 0
    return msgpack.unpackb(wrapper.data)


def test_the_documented_codes_are_those_in_use() -> None:
    documented = {
        name: int(re.sub(r"\D.*", "", wire[4:])) for name, _, wire in ROWS if wire.startswith("ext")
    }
    for name, *_ in ROWS:
        module, _, kind = name.strip().rpartition(".")
        if module in sys.modules:
            assert is_known(getattr(sys.modules[module], kind))
    in_use = {entry.code: kind for kind, entry in [*LEAVES.items(), *PARTS.items()]}
    if sys.version_info < (3, 15):
        assert documented.pop("frozendict") == types.FROZENDICT.code
    for name, code in documented.items():
        if code == 29:
            assert issubclass(in_use.pop(code), BaseException)
        elif code not in (INSTANCE, MOVED, VIEW_CODE):
            assert (
                in_use.pop(code).__name__ == name.split(".")[-1].replace("EllipsisType", "ellipsis").strip()
            )
    assert in_use == {30: list, 31: dict}


# Types whose module shmchannel does not import.
LATER = {
    "decimal": "[decimal.Decimal('-1.50')]",
    "fractions": "[fractions.Fraction(1, 3)]",
    "uuid": "[uuid.UUID(int=5, is_safe=uuid.SafeUUID.safe), uuid.UUID(int=6)]",
    "ipaddress": "[ipaddress.ip_address('::1'), ipaddress.ip_network('10.0.0.0/8')]",
    "pathlib": "[pathlib.Path('a'), pathlib.PureWindowsPath('b')]",
}
READS = """
import sys
from shmchannel import engine
module, example, payload = sys.argv[1:]
assert module not in sys.modules
value = engine.Codec().decode(bytes.fromhex(payload))
names = {module: sys.modules[module]}
assert value == eval(example, names)
assert [*map(type, value)] == [*map(type, eval(example, names))]
"""
WRITES = """
import sys
from shmchannel import engine
module, example, payload = sys.argv[1:]
codec = engine.Codec()
codec.encode([1, {2}, ValueError(3)])
assert module not in sys.modules
names = {module: __import__(module)}
assert codec.encode(eval(example, names)).hex() == payload
assert codec.decode(codec.encode([eval(example, names)[0]] * 2)) == [eval(example, names)[0]] * 2
"""


@pytest.mark.parametrize("program", [READS, WRITES])
@pytest.mark.parametrize("module", LATER)
def test_a_type_travels_though_its_module_is_imported_only_for_it(module: str, program: str) -> None:
    example = LATER[module]
    payload = encode(eval(example, {module: importlib.import_module(module)})).hex()
    command = [sys.executable, "-c", program, module, example, payload]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=in_program(in_use()))
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


@pytest.mark.parametrize("module", LATER)
def test_a_type_whose_module_cannot_be_imported_is_refused(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """As after a chroot."""
    payload = encode(eval(LATER[module], {module: importlib.import_module(module)}))
    monkeypatch.setitem(sys.modules, module, None)
    types._imported.cache_clear()  # this process has imported it before
    types._safety.cache_clear()
    with pytest.raises(CloneError, match=f"{module} cannot be imported here"):
        decode(payload)


def test_a_class_with_the_name_of_such_a_type_is_none() -> None:
    impostor = type("Decimal", (), {"__module__": "decimal"})
    with pytest.raises(CloneError, match="cannot clone"):
        encode([impostor()])


def refused() -> Iterator[tuple[Any, str]]:
    """Values of the types that travel, which would not come back alike."""
    yield fractions.Fraction(3**50_000, 2), "more than 65536 bits"
    yield range(0, 2**70_000, 2), "more than 65536 bits"
    with contextlib.redirect_stdout(io.StringIO()):
        yield re.compile("a", re.DEBUG), "prints where it is compiled"


@pytest.mark.parametrize(("value", "why"), [*refused()], ids=lambda part: part if type(part) is str else "")
def test_a_value_that_would_not_come_back_alike_is_refused_with_its_path(value: Any, why: str) -> None:
    for whole, path in [(value, "$"), ([1, {"a": (value,)}], "$[1]['a'][0]"), ([value, [value]], "$[0]")]:
        with pytest.raises(CloneError, match=f"^{re.escape(path)}: cannot clone {type(value)}: .*{why}"):
            encode(whole)


def refused_exceptions() -> Iterator[tuple[BaseException, str]]:
    """Exceptions that would not come back alike."""
    error: BaseException = OSError("x")
    error.args = (2, "x")
    yield error, "it would be a FileNotFoundError"
    error = ValueError()
    error.args = (((error,),),)
    yield error, "it is an argument of itself"
    yield UnicodeDecodeError("utf-8", b"abc", -1, 0, "why"), "it starts before"
    error = UnicodeEncodeError("utf-8", "abc", 0, 1, "why")
    error.start = -5
    yield error, "it starts before"


@pytest.mark.parametrize(
    ("error", "why"), [*refused_exceptions()], ids=lambda part: part if type(part) is str else ""
)
def test_an_exception_that_would_not_come_back_alike_arrives_as_its_text(
    error: BaseException, why: str
) -> None:
    copy = decode(encode([error]))[0]
    assert (type(copy), copy.class_name) == (RemoteError, type(error).__name__)
    assert why in copy.reason


@pytest.mark.parametrize("capitals", [0, 1])
def test_a_decimal_does_not_depend_on_the_context_of_the_thread(capitals: int) -> None:
    for text in ("1E+5", "-1.50E-7", "sNaN12", "Infinity", "1E+999999999999999999"):
        value = decimal.Decimal(text)
        payload = encode(value)
        with decimal.localcontext(decimal.Context(prec=2, Emax=9, Emin=-9, capitals=capitals, traps=[])):
            assert encode(value) == payload
            assert decode(payload).as_tuple() == value.as_tuple()


@pytest.mark.parametrize("size", [1000, 300_000])
def test_large_patterns_that_were_read_do_not_stay_in_the_cache_of_re(size: int) -> None:
    def read(number: int) -> weakref.ref[re.Pattern[str]]:
        header = struct.pack("<I?", re.UNICODE, False)  # made by hand: to compile one here would cache it
        payload = msgpack.packb(msgpack.ExtType(17, header + b"%08d" % number + b"x" * size))
        return weakref.ref(decode(payload))

    read_ones = [read(number) for number in range(max(2, 500_000 // size))]
    gc.collect()
    assert sum(size for one in read_ones if one() is not None) <= 1 << 18


def test_small_patterns_leave_the_programs_own_in_the_cache_of_re() -> None:
    own = re.compile("the program's own")
    for number in range(100):
        decode(encode(re.compile(f"{number}" + "x" * 200)))
    assert re.compile("the program's own") is own


@pytest.mark.parametrize("spelling", ["1e5", "+1", "01", " 1", "1_0", ".5", "1.", "inf", "NAN"])
def test_each_decimal_has_one_spelling(spelling: str) -> None:
    code = msgpack.unpackb(encode(decimal.Decimal(spelling))).code  # it is one, in another spelling
    with pytest.raises(CloneError):
        decode(msgpack.packb(msgpack.ExtType(code, spelling.encode())))
