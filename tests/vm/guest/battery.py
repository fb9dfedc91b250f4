"""The battery of attacks on this machine: the choice of its cases that the project claims and that need no long waits here."""

import json
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

BATTERY = Path("/vm/attacks")
# Cases left out on an emulated machine: they wait for seconds, measure the machine's speed, take samples of a process that an emulated
# processor is too slow for, or need a compiler. They run on the real one.
SLOW = {
    "056", "138", "139", "146", "167", "168", "176", "200", "201", "202", "204", "205", "206", "208", "209", "210", "212", "214", "217",
    "280", "282", "400", "402", "404", "407", "408", "411",
}  # fmt: skip
# Root's daemon differs in ids, limits and what it may reach: a choice of these ways out is enough for its pass.
SHORT = {
    "001", "003", "005", "010", "015", "027", "029", "035", "041", "042", "045", "057", "061", "070", "074", "092", "094", "100", "106",
    "117", "121", "150", "158", "162", "171", "177", "272", "279", "410",
}  # fmt: skip
# What there is time for at every change: an emulated processor takes some seconds for each.
QUICK = {"001", "010", "029", "041", "061", "092", "106", "121", "162", "272"}
# After this time a pass has failed, in seconds.
PASS_SECONDS = 1500
POLICY = """
version = 1
name = "battery"
description = "The reference policy of the containment battery."

[filesystem]
workspace = "write"
home = "empty"
execute = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc"]
hide = ["/etc/shadow", "/etc/gshadow"]
tmp = true
shm = "64MiB"

[network]
mode = "loopback"

[limits]
wall = "15s"
grace = "1s"
memory = "256MiB"
processes = 128
cpus = 1
open-files = { soft = 1024, hard = 1024 }
file-size = "1GiB"
output = "4MiB"

[environment]
pass = ["PATH", "TERM", "LANG", "LC_*"]
"""


def claimed():
    """The cases the project claims, by id: their names."""
    rows = Path("/vm/battery-expected.txt").read_text().splitlines()
    rows = [row.split() for row in rows if row.strip() and not row.startswith("#")]
    return {case: name for case, _, name in rows}


def run(report, machine, who):
    """One pass against the daemon of `root` or `user`; a case that is claimed and escapes, or does not start, has failed."""
    names = claimed()
    choice = QUICK if machine["quick"] else SHORT if who == "root" else set(names) - SLOW
    chosen = sorted(choice & set(names))
    if not BATTERY.exists():
        report.say("skip", f"{who}: battery", "it does not lie beside the project")
        return
    # The battery covers /home, and must be read and executed by its own user.
    work = Path("/opt/battery")
    if not work.exists():
        shutil.copytree(BATTERY, work)
        (work / "policy.toml").write_text(POLICY)
    results = work / "results"
    results.mkdir(exist_ok=True)
    results.chmod(0o777)
    state = "/home/batuser/.battery" if who == "user" else "/home/.battery"
    socket = "/run/user/61000/fumehood/s"
    daemon = f"mkdir -m 700 -p {state} /run/user/61000/fumehood && exec fumehood daemon --socket {socket}"
    daemon += f" --audit {state}/audit.jsonl --scratch-dir {state}/scratch >>{results}/daemon-{who}.log 2>&1"
    command = f"fumehood run --no-start --no-stdin --socket {socket} --policy {work}/policy.toml --workspace {{ws}} -- {{cmd}}"
    # Limits and waits are the battery's idea of a real machine's; an emulated one gets thrice the time.
    arguments = ["./run.py", "--label", who, "--out", results, "--grace", "0.6", "--extra-timeout", "10", "--only", ",".join(chosen)]
    arguments += ["--limits", "wall=15", "--user", who, "--setup-as", who, "--setup-cmd", daemon, "--setup-wait", socket]
    arguments += ["--runner", command]
    log = results / f"{who}.log"
    environment = {**os.environ, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    battery = subprocess.Popen(
        arguments,
        cwd=work,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    )
    late = []
    timer = threading.Timer(PASS_SECONDS, lambda: (late.append(True), os.killpg(battery.pid, signal.SIGKILL)))
    timer.start()
    with open(log, "w") as kept:
        for line in battery.stdout:
            kept.write(line)
            report.note(f"battery: {line.rstrip()[:200]}")
    battery.wait()
    timer.cancel()
    if late:
        report.say("FAIL", f"{who}: battery", f"not over after {PASS_SECONDS} s; {log.read_text()[-800:]}")
        return
    file = results / f"{who}.json"
    if not file.exists():
        report.say("FAIL", f"{who}: battery", log.read_text()[-1200:])
        return
    verdicts = json.loads(file.read_text())["results"]
    for case in chosen:
        result = verdicts.get(case, {"verdict": "no result"})
        verdict, evidence = result["verdict"], result.get("evidence", "")
        name = f"{who}: attack {case} {names[case]}"
        if verdict in ("CONTAINED", "OK"):
            report.say("ok", name)
        elif verdict == "N/A" or verdict == "NORUN" and "too busy" in evidence:
            report.say("skip", name, f"{verdict} {evidence}")
        else:
            report.say("FAIL", name, f"{verdict} {evidence} {result.get('output', '')}")
    slowest = sorted(((result.get("wall", 0), case) for case, result in verdicts.items()), reverse=True)[:5]
    report.note(f"slowest attacks: {', '.join(f'{case} {wall} s' for wall, case in slowest)}")
