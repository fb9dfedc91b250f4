"""Fumehood on this machine: what it says is in force, and whether that is so.

Everything is judged from outside the sandbox: by files, processes, sockets and cgroups as the machine has them, never by what a
command says about itself, except where only a command can know it (who it is).
"""

import contextlib
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

PROGRAM = "/usr/local/bin/fumehood"
# Software emulation is slow, and a machine under test must never hang: what takes longer than this has failed.
PATIENCE = 60
# The words in a policy of the protections that must be reported. Any other that doctor reports is held to the same.
PROTECTIONS = [
    "filesystem-view", "filesystem-rights", "processes", "network", "ipc",
    "system-calls", "privileges", "resources", "descriptors", "environment",
]  # fmt: skip
SECRET = "hunter2-of-the-machine"


class House:
    """A place of a user's own: a home with secrets, a workspace, things outside it, and a daemon."""

    def __init__(self, who, delegated):
        self.who = who
        self.account = pwd.getpwnam("u" if who == "user" else "root")
        self.delegated = delegated and who == "user"
        self.home = Path(self.account.pw_dir)
        self.base = Path("/srv") / who
        self.work, self.outside, self.state = (self.base / name for name in ("work", "outside", "state"))
        self.socket = self.state / "socket"
        self.daemon = None
        for directory in (self.base, self.work, self.outside, self.state, self.home / ".ssh"):
            directory.mkdir(parents=True, exist_ok=True)
            self.own(directory)
        self.state.chmod(0o700)
        self.write(self.home / ".ssh/id_ed25519", SECRET, 0o600)
        self.write(self.home / "plain", "before\n")
        self.write(self.outside / "canary", "alive\n")

    def own(self, path):
        """Gives a file to this house's user."""
        os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def write(self, path, text, mode=0o644):
        """A file of the user's."""
        path.write_text(text)
        path.chmod(mode)
        self.own(path)
        return path

    def identity(self):
        """How to start a process as this user."""
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "USER": self.account.pw_name,
            "LANG": "C.UTF-8",
        }
        if self.delegated:
            runtime = f"/run/user/{self.account.pw_uid}"
            environment |= {"XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}
        options = {"env": environment, "cwd": self.work}
        if self.who == "user":
            options |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return options

    def start(self):
        """Starts a daemon, and waits until it serves."""
        # Policies of the tests' own give more than the default in one thing or another.
        config = self.state / "fumehoodd.toml"
        config.write_text('inline_policies = "any"\n')
        config.chmod(0o644)
        command = [PROGRAM, "daemon", "--config", config, "--socket", self.socket, "--audit", self.state / "audit.jsonl"]
        command += ["--scratch-dir", self.state / "scratch"]
        if self.delegated:
            command = ["systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes", *command]
        log = open(self.state / "log", "a")
        self.daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **self.identity()
        )
        if not eventually(self.socket.exists, PATIENCE) or self.daemon.poll() is not None:
            raise RuntimeError(f"the daemon does not serve: {self.log()}")

    def log(self):
        """The end of what the daemon said."""
        return (self.state / "log").read_text()[-800:]

    def client(self, *arguments, timeout=PATIENCE):
        """Runs the program as a client, to its end."""
        return subprocess.run(
            [PROGRAM, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout,
            **self.identity(),
        )

    def run_arguments(self, *options, workspace=None):
        """The arguments of a run, before its command."""
        return ["run", "--no-start", "--socket", self.socket, "--workspace", workspace or self.work, *options, "--"]

    def run(self, *command, options=(), workspace=None):
        """A run and its end: exit code, output, errors."""
        return self.client(*self.run_arguments(*options, workspace=workspace), *command)

    def events(self, *command, options=()):
        """A run's events: the started one, and the finished one."""
        ended = self.run(*command, options=("--json", *options))
        events = [json.loads(line) for line in ended.stdout.splitlines()]
        by_type = {event["type"]: event for event in events}
        return by_type.get("started", {}), by_type.get("finished", {"ending": {"kind": f"none: {ended.stderr}"}})

    def policy(self, name, limits="", required=()):
        """A policy file that grants what a shell needs."""
        words = ", ".join(f'"{word}"' for word in required)
        text = f"""
version = 1
name = "{name}"
description = "A policy of the tests."

[filesystem]
workspace = "write"
execute = ["/usr", "/bin", "/lib", "/lib64", "/etc"]
tmp = true

[limits]
wall = "30s"
grace = "300ms"
{limits}

[environment]
pass = ["PATH"]

[protections]
required = [{words}]
"""
        return self.write(self.base / f"{name}.toml", text)


def eventually(holds, seconds):
    """Waits until something holds; whether it did in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return bool(holds())


def processes():
    """Every living process: id, parent, command line."""
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry)
            # The name stands in parentheses and may hold anything.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield pid, int(fields[1]), line


def with_mark(mark):
    """Living processes whose command line names a mark, the clients that started them apart."""
    return [(pid, line) for pid, _, line in processes() if mark in line and PROGRAM not in line]


def descent(root):
    """Every living process below one, by id."""
    parents = {pid: parent for pid, parent, _ in processes()}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def living(pids):
    """Those of some processes that are there and no zombies."""
    return sorted({pid for pid, _, _ in processes()} & set(pids))


def cgroups():
    """Every cgroup that is the product's by its name."""
    found = [Path(top) for top, _, _ in os.walk("/sys/fs/cgroup")]
    return sorted(str(path) for path in found if re.match(r"fumehood-\d+-", path.name))


class Tests:
    """The tests of one user's daemon on one machine."""

    marks = 0

    def __init__(self, report, machine, who):
        self.report, self.machine, self.who = report, machine, who
        self.house = House(who, machine["systemd"])
        # What this machine offers this user.
        self.limited = machine["resources"][who]
        self.landlock = machine["landlock"]
        # Landlock leaves truncation alone before ABI 3, and is then no more than degraded.
        self.truncation = self.landlock is None or self.landlock >= 3
        self.protections = PROTECTIONS

    def mark(self):
        """A time to sleep, in seconds, that no other process sleeps: by it processes are known from outside."""
        Tests.marks += 1
        return f"86400.{Tests.marks:05}"

    def check(self, name, holds, detail=""):
        """Says a result."""
        self.report.say("ok" if holds else "FAIL", f"{self.who}: {name}", "" if holds else detail)

    def attempt(self, test):
        """A test that breaks off has failed, and hinders no other."""
        begun = time.monotonic()
        try:
            test()
        except Exception as error:
            self.check(test.__name__.replace("_", " "), False, f"{type(error).__name__}: {error}; {self.house.log()}")
        self.report.note(f"{self.who}: {test.__name__} took {time.monotonic() - begun:.1f} s")

    # --- what is said ---

    def doctor_tells_the_truth_about_this_machine(self):
        ended = self.house.client("doctor", "--json", "--no-start", "--socket", self.house.socket)
        found = json.loads(ended.stdout)
        self.check("doctor says that commands can be run", ended.returncode == 0 and found["ok"], ended.stdout + ended.stderr)
        self.check(
            f"doctor names the kernel and Landlock ABI {self.landlock}",
            found["kernel_release"] == os.uname().release
            and (found["landlock_abi"] == self.landlock or self.landlock is None and found["landlock_abi"] > 6),
            (found["kernel_release"], found["landlock_abi"]),
        )
        states = {entry["protection"]: entry for entry in found["capabilities"] if entry["name"] == "set up"}
        self.protections = PROTECTIONS + sorted({name.replace("_", "-") for name in states} - set(PROTECTIONS))
        for protection in self.protections:
            entry = states.get(protection.replace("-", "_"), {"state": "not reported", "detail": "", "remedy": ""})
            wanted, words, remedy = "active", "", ""
            if protection == "filesystem-rights":
                words = "Landlock"
                if self.landlock == 0:
                    wanted, remedy = "off", "lsm="
                elif not self.truncation:
                    wanted, remedy = "degraded", "6.2"
            if protection == "resources":
                words = f"cgroup {self.machine['cgroup']}"
                if not self.limited:
                    wanted, words, remedy = "degraded", "no cgroup", "cgroup"
            if protection == "filesystem-rights" and self.landlock:
                words = f"Landlock ABI {self.landlock}"
            holds = entry["state"] == wanted and words in entry["detail"] and remedy in entry["remedy"]
            self.check(f"doctor: {protection} is {wanted}", holds, entry)
            if wanted == "active":
                self.check(f"doctor: {protection} needs no remedy", entry["remedy"] == "", entry)
        got_through = [
            entry
            for entry in found["capabilities"]
            if entry["name"].startswith("stop:")
            and entry["state"] != "active"
            and not (entry["protection"] == "filesystem_rights" and self.landlock == 0)
        ]
        tried = sum(entry["name"].startswith("stop:") for entry in found["capabilities"])
        self.check("doctor: the self-test got through nowhere", tried >= 8 and not got_through, (tried, got_through))

    def a_run_reports_what_doctor_said(self):
        started, finished = self.house.events("sh", "-c", "exit 3")
        self.check("a run gives the command's exit code", finished["ending"] == {"kind": "exited", "code": 3}, finished)
        states = {entry["protection"]: entry["state"] for entry in started.get("enforcement", [])}
        off = {name for name, state in states.items() if state != "active"}
        wanted = set() if self.limited else {"resources"}
        wanted |= set() if self.truncation else {"filesystem_rights"}
        self.check("a run reports what is not in force, and no more", len(states) == len(self.protections) and off == wanted, states)

    def a_required_protection_that_is_missing_refuses(self):
        # Twins: what is there may be required, what is not there may not.
        for protection in ("filesystem-rights", "resources") if self.machine["quick"] else self.protections:
            missing = {"filesystem-rights": not self.truncation, "resources": not self.limited}.get(protection, False)
            policy = self.house.policy(f"needs-{protection}", required=[protection])
            mark = self.house.work / f"ran-{protection}"
            ended = self.house.run("touch", mark.name, options=("--policy", policy))
            if not missing:
                self.check(f"a policy may require {protection}", ended.returncode == 0 and mark.exists(), ended.stderr)
                continue
            held = ended.returncode == 125 and not mark.exists()
            self.check(f"a policy that requires {protection} is refused here", held, (ended.returncode, ended.stderr))
            words = protection in ended.stderr or protection.replace("-", " ") in ended.stderr
            self.check(f"the refusal names {protection} and what helps", words and "what helps:" in ended.stderr, ended.stderr)

    # --- files ---

    def nothing_outside_is_written(self):
        house = self.house
        link = house.work / "link"
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        link.symlink_to(house.outside)
        script = f"""
            for p in {house.outside}/canary {house.outside}/new link/canary link/new ../outside/canary ~/plain ~/new \\
                /etc/new /usr/bin/new /new /srv/new /proc/self/root{house.outside}/canary /proc/1/root{house.outside}/canary; do
                echo changed > $p; done 2>/dev/null
            rm -rf {house.outside}/canary link/canary; mv {house.outside} /tmp; mv ../outside ../elsewhere; ln -f ~/plain hard
            echo mine > inside; cat {house.outside}/canary link/canary; true"""
        ended = house.run("sh", "-c", script)
        self.check("a run writes in its workspace", (house.work / "inside").exists(), ended.stderr)
        kept = (house.outside / "canary").read_text() == "alive\n" and (house.home / "plain").read_text() == "before\n"
        self.check("nothing outside the workspace is changed", kept and ended.returncode == 0, ended.stderr)
        made = [house.outside / "new", house.home / "new", Path("/etc/new"), Path("/usr/bin/new"), Path("/new"), Path("/srv/new")]
        self.check("nothing outside the workspace is made", not any(path.exists() for path in made), made)
        self.check("nothing outside the workspace is read", "alive" not in ended.stdout, ended.stdout)

    def nothing_is_planted_in_a_repository(self):
        if "protected-paths" not in self.protections:
            self.report.say("skip", f"{self.who}: protected paths", "this build does not report them")
            return
        house = self.house
        repository = house.base / "repository"
        git = ["git", "-C", repository, "-c", "user.name=u", "-c", "user.email=u@example.invalid"]
        outside = {**house.identity(), "check": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        subprocess.run(["git", "init", "--quiet", repository], **{**outside, "cwd": house.base})
        config = (repository / ".git/config").read_bytes()
        script = """
            echo evil > .git/hooks/pre-commit; ln -sf /tmp/evil .git/hooks/post-commit; echo evil > x; mv x .git/hooks/pre-push
            printf '[core]\\n\\tfsmonitor = evil\\n' >> .git/config; cp .git/config c; printf '[core]\\n\\tpager = evil\\n' >> c; mv c .git/config
            mv .git/hooks .git/old && mkdir .git/hooks && echo evil > .git/hooks/pre-commit
            mv .git .elsewhere && mkdir .git && echo evil > .git/config
            exec 2>&1; echo text > file; git add file && git -c user.name=u -c user.email=u@example.invalid commit -qm made && echo DONE"""
        ended = house.run("sh", "-c", script, workspace=repository)
        planted = [str(path) for path in (repository / ".git").glob("hooks/*") if path.suffix != ".sample"]
        same = (repository / ".git/config").read_bytes() == config
        self.check("hooks and configuration of a repository stay as they are", same and not planted, (same, planted, ended.stdout, ended.stderr))
        told = subprocess.run([*git, "log", "--format=%s"], **{**outside, "check": False})
        self.check("git add and commit work", "DONE" in ended.stdout and told.stdout == b"made\n", (ended.stdout, ended.stderr, told.stdout))

    def secrets_stay_unseen(self):
        script = "cat ~/.ssh/* /etc/shadow; grep -rs hunter2 ~ /srv /proc/1/environ /proc/1/root; find / -name id_ed25519; true"
        ended = self.house.run("sh", "-c", script)
        seen = [word for word in (SECRET, "id_ed25519", "root:") if word in ended.stdout]
        self.check("secrets of home and machine are not seen", not seen, ended.stdout)

    def a_set_user_id_program_gives_nothing(self):
        proof = Path("/srv/proof")
        proof.write_text("only root\n")
        proof.chmod(0o600)
        ended = self.house.run("sh", "-c", f"su root -c id </dev/null; cat {proof}; id -u; grep -E '^(Cap|NoNew|Secc)' /proc/self/status")
        proof.unlink()
        told = dict(re.findall(r"^(\w+):\s+(\w+)$", ended.stdout, re.M))
        capabilities = [int(value, 16) for name, value in told.items() if name.startswith("Cap")]
        self.check(
            "a command holds no capability and can gain none",
            len(capabilities) == 5 and not any(capabilities) and told.get("NoNewPrivs") == "1" and told.get("Seccomp") == "2",
            ended.stdout,
        )
        uid = re.search(r"^\d+$", ended.stdout, re.M)
        self.check("a command is not root", bool(uid) and uid[0] != "0" and "only root" not in ended.stdout, ended.stdout)

    # --- what is beside it ---

    def nothing_outside_is_signalled_or_seen(self):
        house = self.house
        victim = subprocess.Popen(["sleep", self.mark()], **house.identity())
        # Every id there may be outside, as number and as group.
        script = f"""
import os, signal
for pid in [-1, {victim.pid}, -{victim.pid}, {house.daemon.pid}, *range(3, 3000), *range(-3000, -2)]:
    if abs(pid) not in (os.getpid(), os.getpgrp()):
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
seen = [pid for pid in os.listdir("/proc") if pid.isdigit()]
print("seen", len(seen))
for file in ("mem", "environ", "maps", "root/etc/hostname"):
    try: open(f"/proc/1/{{file}}", "rb").read(1); print("read", file)
    except OSError: pass
"""
        ended = house.run("python3", "-c", script)
        self.check("signals reach nothing outside", victim.poll() is None and house.daemon.poll() is None, ended.stdout)
        seen = re.search(r"seen (\d+)", ended.stdout)
        self.check("processes outside are not seen", bool(seen) and int(seen[1]) <= 4, ended.stdout + ended.stderr)
        self.check("the sandbox's own init is not read", "read " not in ended.stdout, ended.stdout)
        victim.kill()
        victim.wait()

    def nothing_outside_is_reached_by_socket(self):
        house = self.house
        reached = []
        tcp = socket.create_server(("127.0.0.1", 0))
        abstract, named = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        abstract.bind("\0machine-" + self.who)
        path = house.outside / "listener"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        named.bind(str(path))
        house.own(path)

        def accept(listener, name):
            with contextlib.suppress(OSError):
                listener.accept()
                reached.append(name)

        for listener, name in ((tcp, "tcp"), (abstract, "abstract"), (named, "named")):
            listener.listen()
            threading.Thread(target=accept, args=(listener, name), daemon=True).start()
        script = f"""
import socket
def attempt(family, address):
    s = socket.socket(family); s.settimeout(2)
    try: s.connect(address); s.sendall(b"x"); print("connected", address)
    except OSError: pass
attempt(socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]}))
attempt(socket.AF_UNIX, "\\0machine-{self.who}")
attempt(socket.AF_UNIX, "{path}")
attempt(socket.AF_UNIX, "{house.socket}")
l = socket.create_server(("127.0.0.1", 0)); socket.create_connection(l.getsockname()).close(); print("own loopback works")
"""
        ended = house.run("python3", "-c", script)
        self.check("a run has a loopback of its own", "own loopback works" in ended.stdout, ended.stderr)
        self.check("nothing outside is connected to", not reached and "connected" not in ended.stdout, (reached, ended.stdout))
        # The twin: from outside, all three answer.
        for family, address in ((socket.AF_INET, tcp.getsockname()), (socket.AF_UNIX, "\0machine-" + self.who), (socket.AF_UNIX, str(path))):
            with socket.socket(family) as client:
                client.connect(address)
        self.check("what was not connected to is there", eventually(lambda: len(reached) == 3, 5), reached)
        for listener in (tcp, abstract, named):
            listener.close()

    def the_kernel_is_not_reshaped(self):
        script = """
mkdir m; mount -t tmpfs none m && echo GOT mount; mount --bind /etc m && echo GOT bind; umount /tmp && echo GOT umount
unshare --user true && echo GOT userns; unshare --mount true && echo GOT mntns; nsenter --target 1 --mount true && echo GOT setns
mount -o remount,rw / && echo GOT remount; echo 1 > /proc/sys/kernel/panic && echo GOT sysctl; hostname evil && echo GOT hostname
mkdir /sys/fs/cgroup/evil && echo GOT cgroup; dmesg && echo GOT dmesg; chroot / true && echo GOT chroot
mknod dev b 254 0 && head -c1 dev && echo GOT device; ls /dev/vda /dev/mem /dev/ttyS1 2>/dev/null && echo GOT devices; true"""
        before = (os.uname().nodename, Path("/proc/self/mountinfo").read_text(), Path("/proc/sys/kernel/panic").read_text())
        ended = self.house.run("sh", "-c", script)
        after = (os.uname().nodename, Path("/proc/self/mountinfo").read_text(), Path("/proc/sys/kernel/panic").read_text())
        self.check("namespaces, mounts and settings cannot be made or changed", "GOT" not in ended.stdout and ended.returncode == 0, ended.stdout)
        self.check("the machine is as before", before == after, "names, mounts or settings changed")

    # --- limits ---

    def memory_is_limited_with_the_right_cause(self):
        policy = self.house.policy("memory", limits='memory = "64MiB"')
        begun = time.monotonic()
        # `tail` keeps a line without an end.
        _, finished = self.house.events("tail", "/dev/zero", options=("--policy", policy))
        ending = finished["ending"]
        told = ending["kind"] == "out_of_memory" and ending["limit_bytes"] == 64 << 20 and finished["shell_code"] == 137
        self.check("too much memory ends a run, and is told as the cause", told and time.monotonic() - begun < 30, finished)
        if self.limited:
            # By a cgroup nothing above the limit is ever held; the kernel's own counting may be a few pages off.
            usage = finished["usage"]
            held = usage["source"] == "cgroup" and usage["oom_kills"] > 0 and usage["memory_peak_bytes"] <= (64 << 20) + (1 << 20)
            self.check("memory is never above the limit", held, usage)
            shared = "import os; f = os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)\nfor _ in range(80): os.write(f, bytes(1 << 20))"
            _, finished = self.house.events("python3", "-c", shared, options=("--policy", self.house.policy(
                "shm", limits='memory = "64MiB"')))
            # A private /tmp is on a disk or in memory; in memory it counts.
            kinds = {"exited", "out_of_memory", "signaled"}
            self.check("a large file in /tmp ends no one but the run", finished["ending"]["kind"] in kinds and self.house.daemon.poll() is None, finished)

    def processes_are_limited(self):
        mark = self.mark()
        policy = self.house.policy("processes", limits="processes = 12")
        most = 0
        script = f"""
import os, time
for _ in range(60):
    try: pid = os.fork()
    except OSError: print("refused"); break
    if pid == 0: os.execvp("sleep", ["sleep", "{mark}"])
time.sleep(3)
"""
        run = subprocess.Popen(
            [PROGRAM, *map(str, self.house.run_arguments("--policy", policy)), "python3", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **self.house.identity(),
        )
        end = time.monotonic() + PATIENCE
        while run.poll() is None and time.monotonic() < end:
            most = max(most, len(with_mark(mark)))
            time.sleep(0.05)
        run.kill()
        out = run.communicate()[0].decode(errors="replace")
        self.check("no more processes than the limit ever lived", 3 <= most <= 12 and "refused" in out, (most, out))
        self.check("nothing of them is left", eventually(lambda: not with_mark(mark), 5), with_mark(mark))

    def a_time_limit_ends_the_tree(self):
        mark = self.mark()
        script = f"(trap '' TERM HUP; setsid sh -c \"trap '' TERM HUP INT; sleep {mark}\") & (setsid setsid nohup sleep {mark} &) ; kill -STOP $! ; sleep {mark}"
        policy = self.house.policy("time")
        begun = time.monotonic()
        ended = self.house.run("sh", "-c", script, options=("--policy", policy, "--timeout", "2s"))
        took = time.monotonic() - begun
        self.check("a time limit ends a run that ignores it", ended.returncode == 124 and took < 20, (ended.returncode, took, ended.stderr))
        self.check("its whole tree is gone", not with_mark(mark), with_mark(mark))

    def background_processes_end_with_their_run(self):
        mark = self.mark()
        ended = self.house.run("sh", "-c", f"setsid nohup sleep {mark} >/dev/null 2>&1 & (sleep {mark} &) & echo over")
        self.check("a run ends when its command does", ended.returncode == 0 and "over" in ended.stdout, (ended.returncode, ended.stderr))
        self.check("what was in the background is gone", not with_mark(mark), with_mark(mark))

    # --- life and death ---

    def begin_runs(self, mark):
        """Some runs in their middle, and when they are."""
        script = f"trap '' TERM; echo x > /tmp/x; echo x > ~/x; setsid sh -c 'trap \"\" TERM HUP; sleep {mark}' & sleep {mark}"
        runs = [
            subprocess.Popen(
                [PROGRAM, *map(str, self.house.run_arguments()), "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                **self.house.identity(),
            )
            for _ in range(3)
        ]
        begun = eventually(lambda: sum(line.startswith("sleep ") for _, line in with_mark(mark)) == 6, PATIENCE)
        return runs, begun

    def nothing_left(self, name, below):
        """No process, cgroup, mount or scratch file of a daemon that is gone."""
        gone = eventually(lambda: not living(below), 10)
        self.check(f"{name}: no process is left", gone, living(below))
        self.check(f"{name}: no cgroup is left", eventually(lambda: not cgroups(), 10), cgroups())
        mounts = Path("/proc/self/mountinfo").read_text()
        self.check(f"{name}: no mount is left", str(self.house.state) not in mounts, mounts)
        scratch = self.house.state / "scratch"
        left = lambda: [str(path) for path in scratch.glob("fumehood-*/*")]
        self.check(f"{name}: no scratch directory of a run is left", eventually(lambda: not left(), 10), left())

    def a_daemon_that_is_killed_leaves_nothing(self):
        mark = self.mark()
        runs, begun = self.begin_runs(mark)
        self.check("three runs are in their middle", begun, with_mark(mark))
        below = descent(self.house.daemon.pid)
        if self.limited:
            self.check("the runs are in cgroups of their own", len(cgroups()) > 0, cgroups())
        self.house.daemon.send_signal(signal.SIGKILL)
        self.house.daemon.wait()
        said = []
        for run in runs:
            try:
                said.append((run.wait(timeout=20), run.stderr.read().decode(errors="replace")))
            except subprocess.TimeoutExpired:
                run.kill()
                said.append(("hangs", ""))
        self.check("clients of a killed daemon end and say why", all(code == 125 and "daemon" in text for code, text in said), said)
        self.nothing_left("kill -9", below)
        with contextlib.suppress(FileNotFoundError):
            self.house.socket.unlink()
        self.house.start()
        ended = self.house.run("echo", "works")
        self.check("the next daemon works", ended.stdout == "works\n", ended.stderr)

    def a_daemon_that_is_asked_to_end_leaves_nothing(self):
        mark = self.mark()
        runs, begun = self.begin_runs(mark)
        self.check("three more runs are in their middle", begun, with_mark(mark))
        below = descent(self.house.daemon.pid)
        self.house.daemon.send_signal(signal.SIGTERM)
        try:
            self.house.daemon.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.house.daemon.kill()
            self.check("a daemon ends when it is asked to", False, self.house.log())
        for run in runs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(timeout=20)
            run.kill()
            run.wait()
            run.stderr.close()
        self.nothing_left("SIGTERM", below)

    # --- a machine on which nothing can be run ---

    def everything_is_refused_with_the_remedy(self):
        remedy = self.machine["remedy"]
        begun = time.monotonic()
        ended = self.house.client("doctor", "--no-start", "--socket", self.house.socket)
        self.check("doctor says that nothing can be run", ended.returncode == 1, ended.stdout)
        self.check("doctor tells the remedy in words", remedy in ended.stdout + ended.stderr, ended.stdout + ended.stderr)
        found = json.loads(self.house.client("doctor", "--json", "--no-start", "--socket", self.house.socket).stdout)
        remedies = [entry["remedy"] for entry in found["capabilities"] if entry["state"] == "off"]
        self.check("doctor --json tells the remedy", not found["ok"] and any(remedy in text for text in remedies), found)
        for name, options in (("the default policy", ()), ("a policy that requires nothing", ("--policy", self.house.policy("none")))):
            ended = self.house.run("touch", "ran", options=options)
            self.check(f"{name}: a run is refused", ended.returncode == 125 and not (self.house.work / "ran").exists(), (ended.returncode, ended.stderr))
            self.check(f"{name}: the refusal tells the remedy or where it is told", remedy in ended.stderr or "doctor" in ended.stderr, ended.stderr)
        self.check("nothing hangs", time.monotonic() - begun < 60, time.monotonic() - begun)


def run(report, machine, who):
    """All tests of one user's daemon, `root` or `user`."""
    if machine["systemd"] and who == "user":
        # A user without a session has no systemd of their own, unless they may linger.
        subprocess.run(["loginctl", "enable-linger", "u"], check=True)
        if not eventually(Path("/run/user/1000/bus").exists, PATIENCE):
            report.say("FAIL", f"{who}: the user's systemd", "no bus within a minute")
            return
    tests = Tests(report, machine, who)
    try:
        tests.house.start()
    except RuntimeError as error:
        report.say("FAIL", f"{who}: the daemon starts", error)
        return
    if not machine["userns"]:
        tests.attempt(tests.everything_is_refused_with_the_remedy)
    else:
        slow = [tests.a_daemon_that_is_asked_to_end_leaves_nothing]
        for test in (
            tests.doctor_tells_the_truth_about_this_machine,
            tests.a_run_reports_what_doctor_said,
            tests.a_required_protection_that_is_missing_refuses,
            tests.nothing_outside_is_written,
            tests.nothing_is_planted_in_a_repository,
            tests.secrets_stay_unseen,
            tests.a_set_user_id_program_gives_nothing,
            tests.nothing_outside_is_signalled_or_seen,
            tests.nothing_outside_is_reached_by_socket,
            tests.the_kernel_is_not_reshaped,
            tests.memory_is_limited_with_the_right_cause,
            tests.processes_are_limited,
            tests.a_time_limit_ends_the_tree,
            tests.background_processes_end_with_their_run,
            tests.a_daemon_that_is_killed_leaves_nothing,
            *([] if machine["quick"] else slow),
        ):
            tests.attempt(test)
    daemon = tests.house.daemon
    if daemon.poll() is None:
        daemon.kill()
        daemon.wait()
