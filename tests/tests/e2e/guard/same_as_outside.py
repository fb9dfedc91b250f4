"""Makes random changes of files and prints what each call answered and what the tree became.

    same_as_outside.py SEED STEPS

The working directory is changed; two runs with the same seed in empty directories print the same, wherever they are.
"""

import ctypes
import errno
import hashlib
import os
import random
import stat
import sys

C = ctypes.CDLL(None, use_errno=True)
CWD = -100
SEED, STEPS = int(sys.argv[1]), int(sys.argv[2])
R = random.Random(SEED)
ROOT = os.getcwd()
NAMES = ["a", "b", "c", "d", "l", "m", "x" * 255, "y" * 256, "HEAD", "config", "hooks", "refs"]


class Timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


# What was called with which paths, for whom reads a difference.
calls = []


def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(C, name)(*arguments)
    answer = result if result != -1 else "-" + errno.errorcode.get(ctypes.get_errno(), "?")
    # Where several things are wrong, which one is told depends on what is looked at first.
    if isinstance(answer, str) and ("rename" in name or "link" in name or "xattr" in name):
        answer = "failed"
    paths = [shown(text) for text in arguments if isinstance(text, bytes)]
    calls.append("%s(%s)" % (name, ", ".join(paths)))
    return answer


def shown(text):
    text = text.decode().replace(ROOT, "").replace("x" * 255, "XX").replace("y" * 256, "YY")
    return "/proc/self/fd" if text.startswith("/proc/") else text


def path():
    names = [R.choice(NAMES[:6]) if R.random() < 0.93 else R.choice(NAMES) for _ in range(R.choice([1, 1, 1, 2, 2, 3]))]
    for index in range(len(names)):
        if R.random() < 0.04:
            names[index] = R.choice([".", ".."])
    text = "/".join(names)
    if R.random() < 0.06:
        text += R.choice(["/", "//", "/.", "/.."])
    if R.random() < 0.04:
        text = "./" + text
    if R.random() < 0.01:
        text = ""
    return text.encode()


# Not above the place, which two runs do not share.
def inside(text):
    depth = 0
    for part in text.split(b"/"):
        depth += {b"": 0, b".": 0, b"..": -1}.get(part, 1)
        if depth < 0:
            return False
    return True


def where():
    """A descriptor to begin at and a path."""
    while not inside(text := path()):
        pass
    if text and R.random() < 0.2:
        return CWD, ROOT.encode() + b"/top/" + text
    if R.random() < 0.25:
        return directory, text
    return CWD, text


def plain():
    at, text = where()
    return text if at == CWD else text or b"a"


def one():
    kind = R.randrange(30)
    mode = R.choice([0o644, 0o600, 0o755, 0o777, 0o444, 0o200, 0o000, 0o1777])
    # Init cannot pass through a directory to one that lies in it and that the caller still has open, where the user may not.
    searchable = mode | 0o100
    if kind <= 5:
        flags = R.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
        for flag in [os.O_CREAT, os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_DIRECTORY, os.O_CLOEXEC, os.O_PATH]:
            if R.random() < 0.2:
                flags |= flag
        # What these mean together has changed between kernels.
        if flags & os.O_CREAT:
            flags &= ~os.O_DIRECTORY
        flags |= os.O_NONBLOCK
        fd = call("openat", *where(), flags, mode)
        if isinstance(fd, str):
            return "openat %o" % flags, fd
        answer = [oct(os.fstat(fd).st_mode), os.fstat(fd).st_size, C.fcntl(fd, 3) & ~0o100000, C.fcntl(fd, 1)]
        if not flags & os.O_PATH:
            answer.append(call("write", fd, b"hello"[: R.randrange(6)], R.randrange(3)))
            what = R.randrange(8)
            if what == 0:
                answer.append(call("fchmod", fd, searchable & 0o777))
            elif what == 1:
                answer.append(call("futimens", fd, (Timespec * 2)(Timespec(5, 6), Timespec(7, 8))))
                answer.append(os.fstat(fd).st_mtime_ns)
            elif what == 2:
                answer.append(call("fchown", fd, -1, os.getgid()))
            elif what == 3:
                answer.append(call("fsetxattr", fd, b"user.q", b"v", 1, 0))
                answer.append(call("fremovexattr", fd, b"user.q"))
            elif what == 4:
                answer.append(call("ftruncate", fd, R.randrange(100)))
            elif what == 5:
                again = call("open", b"/proc/self/fd/%d" % fd, R.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC]) | os.O_NONBLOCK)
                answer.append(again if isinstance(again, str) else os.close(again))
            elif what == 6:
                answer.append(call("linkat", CWD, b"/proc/self/fd/%d" % fd, *where(), 0x400))
            elif what == 7:
                answer.append(call("chmod", b"/proc/self/fd/%d" % fd, searchable & 0o777))
        os.close(fd)
        return "openat %o" % flags, answer
    if kind == 6:
        path = plain()
        # It would wait for a reader.
        if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
            return "creat", "a FIFO"
        fd = call("creat", path, mode)
        return "creat", fd if isinstance(fd, str) else os.close(fd)
    if kind in (7, 8):
        return "mkdirat", call("mkdirat", *where(), searchable)
    if kind == 9:
        return "mkdir", call("mkdir", plain(), 0o755)
    if kind == 10:
        return "mknod", call("mknod", plain(), R.choice([stat.S_IFIFO, stat.S_IFREG, 0, stat.S_IFSOCK]) | mode & 0o777, 0)
    if kind == 11:
        return "unlink", call("unlink", plain())
    if kind == 12:
        return "rmdir", call("rmdir", plain())
    if kind == 13:
        flags = R.choice([0, 0, 0x200, 0x200, 0x1000])
        return "unlinkat %x" % flags, call("unlinkat", *where(), flags)
    if kind in (14, 15):
        return "rename", call("rename", plain(), plain())
    if kind == 16:
        flags = R.choice([0, 1, 2, 2, 4, 3])
        return "renameat2 %x" % flags, call("renameat2", *where(), *where(), flags)
    if kind == 17:
        return "link", call("link", plain(), plain())
    if kind == 18:
        flags = R.choice([0, 0x400, 0x1000, 0x8000])
        return "linkat %x" % flags, call("linkat", *where(), *where(), flags)
    if kind in (19, 20):
        target = R.choice([b"a", b"b", b"../b", b"l", b"m", b"d/", b"d/a", b"nowhere/x", b"/dev/null", b".", b"", ROOT.encode() + b"/top/c"])
        if R.random() < 0.5:
            return "symlink", call("symlink", target, R.choice([b"l", b"m", b"d/l", plain()]))
        return "symlinkat", call("symlinkat", target, *where())
    if kind == 21:
        return "truncate", call("truncate", plain(), ctypes.c_long(R.choice([0, 3, 4097, -1])))
    if kind == 22:
        return "chmod", call("chmod", plain(), searchable)
    if kind == 23:
        flags = R.choice([0, 0x100])
        return "fchmodat %x" % flags, call("fchmodat", *where(), searchable, flags)
    if kind == 24:
        flags = R.choice([0, 0x100, 0x1000])
        return "fchownat %x" % flags, call("fchownat", *where(), R.choice([-1, os.getuid()]), R.choice([-1, os.getgid()]), flags)
    if kind == 25:
        flags = R.choice([0, 0x100, 0x1000, 0x4000])
        times = R.choice([None, (Timespec * 2)(Timespec(11, 12), Timespec(13, 14)), (Timespec * 2)(Timespec(1, 0x3FFFFFFE), Timespec(2, 0x3FFFFFFF)), (Timespec * 2)(Timespec(1, -5), Timespec(2, 0))])
        at, text = where()
        if R.random() < 0.1:
            text = None
        return "utimensat %x" % flags, call("utimensat", at, text, times, flags)
    if kind == 26:
        name = R.choice([b"user.t", b"bad", b"user." + b"n" * 300, b"trusted.x"])
        text = plain()
        return "setxattr", [call(R.choice(["setxattr", "lsetxattr"]), text, name, b"value", 5, R.choice([0, 1, 2, 9])), call("removexattr", text, name)]
    if kind == 27:
        flags = R.choice([0, 0x200, 0x100, 0x1000])
        return "faccessat %x" % flags, call("faccessat", *where(), R.choice([2, 6, 3, 0, 9]), flags)
    if kind == 28:
        fd = call("openat", CWD, R.choice([b".", b"d", b"l", b"a"]), os.O_TMPFILE | os.O_RDWR | R.choice([0, 0, os.O_EXCL]), mode)
        if isinstance(fd, str):
            return "tmpfile", fd
        answer = [call("write", fd, b"tmp", 3), oct(os.fstat(fd).st_mode)]
        answer.append(call("linkat", fd, b"", *where(), 0x1000))
        answer.append(call("linkat", CWD, b"/proc/self/fd/%d" % fd, *where(), 0x400))
        os.close(fd)
        return "tmpfile", answer
    import socket

    s = socket.socket(socket.AF_UNIX)
    try:
        s.bind(plain()[:100])
        return "bind", 0
    except OSError as error:
        return "bind", errno.errorcode[error.errno]
    finally:
        s.close()


def dump(top):
    for where, directories, files in os.walk(top):
        directories.sort()
        for name in sorted(directories + files):
            full = os.path.join(where, name)
            try:
                s = os.lstat(full)
            except OSError as error:
                print("  ", shown(full.encode()), errno.errorcode[error.errno])
                continue
            more = ""
            if stat.S_ISLNK(s.st_mode):
                more = os.readlink(full).replace(ROOT, "")
            elif stat.S_ISREG(s.st_mode) and os.access(full, os.R_OK):
                with open(full, "rb") as file:
                    more = hashlib.sha256(file.read()).hexdigest()[:12]
            size = s.st_size if stat.S_ISREG(s.st_mode) else 0
            print("  ", shown(full.encode()), oct(s.st_mode), s.st_nlink, size, more)


for step in range(STEPS):
    if step % 150 == 0:
        if step:
            os.chdir(ROOT)
            dump("top")
            os.rename("top", "top%d" % step)
        os.umask(0o022)
        os.mkdir("top")
        os.chdir("top")
        os.mkdir("d")
        directory = os.open("d", os.O_RDONLY | os.O_DIRECTORY)
    if R.random() < 0.05:
        os.umask(R.choice([0, 0o022, 0o077, 0o002, 0o227]))
    calls.clear()
    name, answer = one()
    print(step, name, answer, *calls)
os.chdir(ROOT)
dump("top")
