//! The figures: what a command through the daemon costs, beside what it costs without.
//!
//! `cargo bench -p fumehood-tests --bench figures [-- OPTIONS]`, with `--help` for the options. Every figure that depends on the
//! machine stands beside its own baseline, measured in the same run, interleaved and in random order, because machines differ and
//! busy ones differ from themselves. Nothing is asserted about time; wrong results (a failed command, lost output) end the
//! program.

#[path = "figures/bare.rs"]
mod bare;
#[path = "figures/client.rs"]
mod client;
#[path = "figures/measure.rs"]
mod measure;
#[path = "figures/neighbours.rs"]
mod neighbours;
#[path = "figures/options.rs"]
mod options;
#[path = "figures/report.rs"]
mod report;
#[path = "figures/under_test.rs"]
mod under_test;

use std::error::Error;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use client::{Connection, TRUE};
use fumehood_client::proto::v1::OutputSpill;
use measure::{Random, Samples};
use options::{Asked, Options, Section};
use report::Report;
use under_test::Daemon;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Time between commands in the variant that imitates an agent: it thinks, then runs one.
const GAP: Duration = Duration::from_millis(50);

/// Bytes of the streamed output.
const STREAMED: u64 = 1 << 30;

/// Bytes that nobody reads.
const FLOOD: u64 = 10 << 30;

/// Runs open at once when memory is looked at.
const OPEN_RUNS: usize = 100;

fn main() -> ExitCode {
    let options = match options::parse(std::env::args().skip(1)) {
        Ok(Asked::Figures(options)) => options,
        Ok(Asked::Nothing(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("figures: {error}");
            return ExitCode::from(2);
        }
    };
    match figures(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("figures: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn figures(options: &Options) -> Result<()> {
    let mut report = Report::default();
    let mut random = Random::seeded();
    let daemon = Daemon::start()?;
    let connection = daemon.connect()?;
    let header = report::header(&connection.capabilities()?, random.seed());
    // Caches, lazily bound symbols, the first connection's windows: nobody asks what the first run of all costs here.
    for _ in 0..5 {
        connection.run(&daemon, TRUE)?;
        bare::output(TRUE)?;
    }
    for section in Section::ALL.iter().copied().filter(|section| options.wants(*section)) {
        eprintln!("figures: {} ...", section.name());
        match section {
            Section::Latency => {
                latency(
                    &mut report,
                    &mut random,
                    &daemon,
                    &connection,
                    "back to back",
                    options.runs,
                    Duration::ZERO,
                )?;
                latency(
                    &mut report,
                    &mut random,
                    &daemon,
                    &connection,
                    "50 ms gaps",
                    options.gap_runs,
                    GAP,
                )?;
            }
            Section::Throughput => throughput(&mut report, &mut random, &daemon, options)?,
            Section::Streaming => streaming(&mut report, &mut random, &daemon, &connection, options)?,
            Section::Process => process(&mut report, &mut random, &daemon, options)?,
            Section::Start => start(&mut report, options)?,
            Section::Memory => memory(&mut report)?,
            Section::Neighbours => neighbours::neighbours(&mut report, &daemon, &connection, options.gap_runs)?,
        }
    }
    drop(connection);
    daemon.end()?;
    println!("{header}\n{report}");
    Ok(())
}

/// One command at a time: bare, and through the daemon.
fn latency(
    report: &mut Report,
    random: &mut Random,
    daemon: &Daemon,
    connection: &Connection,
    title: &str,
    runs: usize,
    gap: Duration,
) -> Result<()> {
    let (mut plain, mut through) = (Samples::default(), Samples::default());
    let mut phases: Vec<(&'static str, Samples)> = Vec::new();
    for _ in 0..runs {
        let mut order = [true, false];
        random.shuffle(&mut order);
        for bare in order {
            thread::sleep(gap);
            let start = Instant::now();
            if bare {
                bare::output(TRUE)?;
                plain.push(start.elapsed());
                continue;
            }
            let times = connection.run(daemon, TRUE)?;
            through.push(start.elapsed());
            for (index, (name, time)) in times.phases().into_iter().enumerate() {
                if phases.len() == index {
                    phases.push((name, Samples::default()));
                }
                phases[index].1.push(time);
            }
        }
    }
    report.ratio(
        format!("/bin/true, {title}: daemon / bare, p50"),
        through.median() / plain.median(),
    );
    report.ratio(
        format!("/bin/true, {title}: daemon / bare, p99"),
        through.percentile(99.0) / plain.percentile(99.0),
    );
    let line = |samples: &Samples| {
        let (p50, p99) = (samples.median() * 1e3, samples.percentile(99.0) * 1e3);
        format!("p50 {p50:.3} ms, p99 {p99:.3} ms (n={})", samples.len())
    };
    report.absolute(
        format!("/bin/true, {title}: bare fork+exec, output captured"),
        line(&plain),
    );
    report.absolute(format!("/bin/true, {title}: through the daemon"), line(&through));
    for (name, samples) in &phases {
        report.absolute(format!("    {name}"), line(samples));
    }
    Ok(())
}

/// Commands per second by several clients at once, each with a thread and a connection of its own.
fn throughput(report: &mut Report, random: &mut Random, daemon: &Daemon, options: &Options) -> Result<()> {
    for clients in [1, 2, 8] {
        let (mut plain, mut through) = (Samples::default(), Samples::default());
        for _ in 0..options.rounds {
            let mut order = [true, false];
            random.shuffle(&mut order);
            for bare in order {
                if bare {
                    plain.push_number(bare::per_second(clients, options.period)?);
                } else {
                    through.push_number(client::per_second(daemon, clients, options.period)?);
                }
            }
        }
        let title = format!("commands per second, {clients} at once");
        report.ratio(format!("{title}: daemon / bare"), through.median() / plain.median());
        report.absolute(format!("{title}: bare"), format!("{:.0} /s", plain.median()));
        report.absolute(format!("{title}: daemon"), format!("{:.0} /s", through.median()));
    }
    Ok(())
}

/// A gigabyte from a child to its reader.
fn streaming(
    report: &mut Report,
    random: &mut Random,
    daemon: &Daemon,
    connection: &Connection,
    options: &Options,
) -> Result<()> {
    let size = STREAMED.to_string();
    let argv = ["head", "-c", &size, "/dev/zero"];
    let (mut plain, mut through, mut spilled) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..options.rounds {
        // `None` is without the daemon.
        let mut order = [None, Some(OutputSpill::No), Some(OutputSpill::Yes)];
        random.shuffle(&mut order);
        for way in order {
            let start = Instant::now();
            let bytes = match way {
                None => bare::streamed(&argv)?,
                Some(spill) => connection.streamed(daemon, &argv, spill)?,
            };
            let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e9;
            if bytes != STREAMED {
                return Err(format!("{bytes} of {STREAMED} bytes arrived ({way:?})").into());
            }
            match way {
                None => plain.push_number(rate),
                Some(OutputSpill::Yes) => spilled.push_number(rate),
                Some(_) => through.push_number(rate),
            }
        }
    }
    report.ratio(
        "1 GiB streamed: with a file of it / without (throughput)",
        spilled.median() / through.median(),
    );
    report.absolute(
        "1 GiB streamed: the same, and to a file",
        format!("{:.2} GB/s", spilled.median()),
    );
    report.ratio(
        "1 GiB streamed: daemon / plain pipe (throughput)",
        through.median() / plain.median(),
    );
    report.absolute("1 GiB streamed: plain pipe", format!("{:.2} GB/s", plain.median()));
    report.absolute(
        "1 GiB streamed: child, daemon, gRPC, client",
        format!("{:.2} GB/s", through.median()),
    );
    Ok(())
}

/// `fumehood run -- true`, the whole process, against bwrap's.
fn process(report: &mut Report, random: &mut Random, daemon: &Daemon, options: &Options) -> Result<()> {
    const BWRAP: &[&str] = &[
        "bwrap",
        "--unshare-all",
        "--ro-bind",
        "/",
        "/",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "true",
    ];
    let bwrap = match bare::output(BWRAP) {
        Ok(()) => true,
        Err(error) => {
            report.absolute("bwrap --unshare-all ... true", format!("not measured: {error}"));
            false
        }
    };
    let run = |bwrap: bool| -> Result<Duration> {
        let start = Instant::now();
        if bwrap {
            bare::output(BWRAP)?;
        } else {
            bare::succeeded(daemon.command_line(&["run"], &["--", "true"]).stdin(Stdio::null()))?;
        }
        Ok(start.elapsed())
    };
    let (mut plain, mut theirs, mut ours) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..options.gap_runs {
        let mut order = [0, 1, 2];
        random.shuffle(&mut order);
        for which in order {
            match which {
                0 => {
                    let start = Instant::now();
                    bare::succeeded(Command::new("true").stdin(Stdio::null()))?;
                    plain.push(start.elapsed());
                }
                1 if bwrap => theirs.push(run(true)?),
                1 => {}
                _ => ours.push(run(false)?),
            }
        }
    }
    report.ratio("fumehood run -- true / bare true, p50", ours.median() / plain.median());
    if bwrap {
        report.ratio(
            "fumehood run -- true / bwrap --unshare-all ... true, p50",
            ours.median() / theirs.median(),
        );
        report.absolute(
            "bwrap --unshare-all ... true",
            format!("p50 {:.2} ms", theirs.median() * 1e3),
        );
    }
    report.absolute(
        "fumehood run -- true, daemon up",
        format!("p50 {:.2} ms", ours.median() * 1e3),
    );
    Ok(())
}

/// From nothing to the first command's end.
fn start(report: &mut Report, options: &Options) -> Result<()> {
    let (mut up, mut first) = (Samples::default(), Samples::default());
    for _ in 0..options.starts {
        let start = Instant::now();
        let daemon = Daemon::start()?;
        let connection = daemon.connect()?;
        up.push(start.elapsed());
        connection.run(&daemon, TRUE)?;
        first.push(start.elapsed());
        drop(connection);
        daemon.end()?;
    }
    report.absolute(
        "daemon started to first connection",
        format!("p50 {:.0} ms", up.median() * 1e3),
    );
    report.absolute(
        "daemon started to first command finished",
        format!("p50 {:.0} ms", first.median() * 1e3),
    );
    Ok(())
}

/// Memory of a fresh daemon and its launcher, idle and with many runs open.
fn memory(report: &mut Report) -> Result<()> {
    let daemon = Daemon::start()?;
    let connection = daemon.connect()?;
    connection.run(&daemon, TRUE)?;
    let (idle_daemon, idle_launcher) = (daemon.memory()?, daemon.launcher_memory()?);
    let start = Instant::now();
    let runs = connection.open_runs(&daemon, &["sleep", "600"], OPEN_RUNS)?;
    let opened = start.elapsed();
    let (open_daemon, open_launcher) = (daemon.memory()?, daemon.launcher_memory()?);
    let inside = daemon.sandboxes_memory()?;
    let start = Instant::now();
    connection.kill(&runs)?;
    let killed = start.elapsed();
    drop(connection);
    daemon.end()?;

    let daemon = Daemon::start()?;
    let connection = daemon.connect()?;
    connection.run(&daemon, TRUE)?;
    let start = Instant::now();
    let (written, in_file) = connection.flooded(&daemon, &["head", "-c", &FLOOD.to_string(), "/dev/zero"])?;
    if written != FLOOD {
        return Err(format!("{written} of {FLOOD} bytes were taken").into());
    }
    let rate = written as f64 / start.elapsed().as_secs_f64() / 1e9;
    let peak = daemon.peak()?;
    drop(connection);
    daemon.end()?;
    report.absolute(
        "10 GiB printed, nobody reads: daemon's highest RSS",
        format!(
            "{:.1} MiB, at {rate:.2} GB/s, {:.1} GiB in the file",
            peak as f64 / (1 << 20) as f64,
            in_file as f64 / (1 << 30) as f64
        ),
    );

    let per_run = |open: u64, idle: u64| open.saturating_sub(idle) / OPEN_RUNS as u64 / 1024;
    report.absolute("memory idle: daemon", idle_daemon);
    report.absolute("memory idle: launcher", idle_launcher);
    report.absolute(format!("memory with {OPEN_RUNS} runs open: daemon"), open_daemon);
    report.absolute(format!("memory with {OPEN_RUNS} runs open: launcher"), open_launcher);
    report.absolute(
        "memory per open run",
        format!(
            "daemon {} KiB + launcher {} KiB + its init and command {} KiB ({})",
            per_run(open_daemon.pss, idle_daemon.pss),
            per_run(open_launcher.pss, idle_launcher.pss),
            inside.pss / OPEN_RUNS as u64 / 1024,
            if nix::unistd::geteuid().is_root() {
                "PSS"
            } else {
                "init by RSS: PSS is for root to read"
            }
        ),
    );
    report.absolute(
        format!("{OPEN_RUNS} runs: asked for one by one to all running"),
        format!("{:.0} ms", opened.as_secs_f64() * 1e3),
    );
    report.absolute(
        format!("{OPEN_RUNS} runs: killed to all gone"),
        format!("{:.0} ms", killed.as_secs_f64() * 1e3),
    );
    Ok(())
}
