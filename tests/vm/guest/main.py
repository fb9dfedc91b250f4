"""The tests of one machine, from inside: says every result on the second serial line, one a line, and at the end that it was the end."""

import json
import os
import shutil
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(__file__))
import battery
import containment


class Report:
    """Says results on a line that the kernel's messages do not run through, and counts them."""

    def __init__(self, path):
        self.line = open(path, "w", buffering=1)
        self.counts = {"ok": 0, "FAIL": 0, "skip": 0}
        self.begun = time.monotonic()

    def say(self, verdict, name, detail=""):
        """One result: `ok`, `FAIL` with what was seen, or `skip` with the reason."""
        self.counts[verdict] += 1
        detail = " ".join(str(detail).split())[:1500]
        print(f"{verdict} {name}" + (f": {detail}" if detail else ""), file=self.line)

    def note(self, text):
        """Something worth knowing that is no result."""
        print(f"note {time.monotonic() - self.begun:.0f}s {text}", file=self.line)

    def end(self):
        """The last line, without which the machine counts as crashed."""
        counts = self.counts
        print(f"end {counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped", file=self.line)


def main():
    with open("/vm/machine.json") as file:
        machine = json.load(file)
    subprocess.run(["stty", "-F", "/dev/ttyS1", "raw", "-echo"], check=False)
    report = Report("/dev/ttyS1")
    try:
        report.note(f"{os.uname().release} {open('/proc/uptime').read().split()[0]} s after boot")
        shutil.copy("/vm/fumehood", "/usr/local/bin/fumehood")
        os.chmod("/usr/local/bin/fumehood", 0o755)
        for who in machine["users"]:
            containment.run(report, machine, who)
            report.note(f"containment as {who} done")
        for who in machine["battery"]:
            battery.run(report, machine, who)
            report.note(f"battery as {who} done")
    except Exception:
        report.say("FAIL", "the tests themselves", traceback.format_exc())
    report.end()


main()
