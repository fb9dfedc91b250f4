//! What a run costs beside one that takes all it can get.

use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::{Connection, TRUE};
use crate::measure::Samples;
use crate::report::Report;
use crate::under_test::Daemon;

/// How long a bomb goes off before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// A short computation, of some 20 ms.
const WORK: &[&str] = &["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"];

/// The bounds of every bomb but where one says otherwise.
const LIMITS: &str = "memory = \"256MiB\"\nprocesses = 128\nwall = \"2m\"\ngrace = \"0s\"\n";

struct Bomb {
    name: &'static str,
    /// Further bounds.
    limits: &'static str,
    /// Goes on for ever: what ends it is that it is killed.
    script: &'static str,
}

const BOMBS: &[Bomb] = &[
    Bomb {
        name: "fork bomb, one processor",
        limits: "cpus = 1\n",
        script: "exec python3 -I -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'",
    },
    Bomb {
        name: "fork bomb, all processors",
        limits: "",
        script: "exec python3 -I -c 'import os\nwhile True:\n try: os.fork()\n except OSError: pass'",
    },
    Bomb {
        name: "memory bomb, again and again",
        limits: "cpus = 1\n",
        script: "while :; do tail /dev/zero; done 2>/dev/null",
    },
    Bomb {
        name: "four spinning processes, one processor",
        limits: "cpus = 1\n",
        script: "for i in 1 2 3; do while :; do :; done & done; while :; do :; done",
    },
    Bomb {
        name: "four spinning processes, all processors",
        limits: "",
        script: "for i in 1 2 3; do while :; do :; done & done; while :; do :; done",
    },
    Bomb {
        name: "output flood that nobody reads",
        limits: "cpus = 1\n",
        script: "exec yes",
    },
    Bomb {
        name: "disk filled and emptied",
        limits: "cpus = 1\ndisk = \"512MiB\"\n",
        script: "while :; do dd if=/dev/zero of=fill bs=1M count=64 conv=fsync status=none; rm fill; done",
    },
    Bomb {
        name: "files made and removed",
        limits: "cpus = 1\nfiles = 20000\n",
        script: "exec python3 -I -c 'import os\nwhile True:\n for i in range(500): os.close(os.open(\"f%d\" % i, os.O_CREAT))\n for i in range(500): os.unlink(\"f%d\" % i)'",
    },
    Bomb {
        name: "descriptors hoarded by many",
        limits: "cpus = 1\nopen-files = { soft = 1024, hard = 1024 }\n",
        script: "exec python3 -I -c 'import os\nfor i in range(6): os.fork()\nh = []\nwhile True:\n try: h.append(os.open(\"/dev/null\", 0))\n except OSError: [os.close(f) for f in h]; h = []'",
    },
];

fn policy(bomb: &Bomb) -> String {
    format!(
        "version = 1\nname = \"bomb\"\n[filesystem]\nworkspace = \"write\"\ntmp = true\n\
         execute = [\"/usr\", \"/bin\", \"/lib\", \"/lib64\", \"/etc\"]\n[limits]\n{LIMITS}{}",
        bomb.limits
    )
}

/// Both commands, one after the other, so many times.
fn measure(daemon: &Daemon, connection: &Connection, runs: usize) -> Result<[Samples; 2]> {
    let mut samples = [Samples::default(), Samples::default()];
    for _ in 0..runs {
        for (samples, command) in samples.iter_mut().zip([TRUE, WORK]) {
            let start = Instant::now();
            connection.run(daemon, command)?;
            samples.push(start.elapsed());
        }
    }
    Ok(samples)
}

pub fn neighbours(report: &mut Report, daemon: &Daemon, connection: &Connection, runs: usize) -> Result<()> {
    for bomb in BOMBS {
        let alone = measure(daemon, connection, runs)?;
        let id = connection.start_under(daemon, &["sh", "-c", bomb.script], &policy(bomb))?;
        thread::sleep(WARM_UP);
        let beside = measure(daemon, connection, runs);
        let running = connection.is_running(&id)?;
        connection.kill(&[id])?;
        let beside = beside?;
        if !running {
            return Err(format!("{}: it ended before the measurement did", bomb.name).into());
        }
        for ((alone, beside), command) in alone.iter().zip(&beside).zip(["/bin/true", "a short computation"]) {
            report.ratio(
                format!("{command} beside {}: p50", bomb.name),
                beside.median() / alone.median(),
            );
            report.absolute(
                format!("{command} beside {}", bomb.name),
                format!(
                    "p50 {:.1} ms, p99 {:.1} ms; alone {:.1} ms (n={})",
                    beside.median() * 1e3,
                    beside.percentile(99.0) * 1e3,
                    alone.median() * 1e3,
                    beside.len()
                ),
            );
        }
    }
    Ok(())
}
