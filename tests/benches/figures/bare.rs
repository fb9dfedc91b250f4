//! The baselines: the same commands without Fumehood.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::TRUE;

/// Bytes read at once from the plain pipe: the most the daemon puts into one event.
const CHUNK: usize = 256 * 1024;

/// Runs a command and captures its output through pipes.
pub fn output(argv: &[&str]) -> Result<()> {
    let [program, arguments @ ..] = argv else {
        return Err("no command".into());
    };
    succeeded(Command::new(program).args(arguments).stdin(Stdio::null()))
}

/// Runs a command, captures its output, and takes a failure for an error.
pub fn succeeded(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
    .into())
}

/// Commands per second with so many threads.
pub fn per_second(threads: usize, period: Duration) -> Result<f64> {
    count(threads, period, |_| Ok(()), |()| output(TRUE))
}

/// Calls `step` in so many threads until the period is over; each thread has what `prepare` made. Calls per second.
pub fn count<T>(
    threads: usize,
    period: Duration,
    prepare: impl Fn(usize) -> Result<T> + Sync,
    step: impl Fn(&mut T) -> Result<()> + Sync,
) -> Result<f64> {
    let ready = std::sync::Barrier::new(threads);
    let work = |index| -> Result<(u64, Duration)> {
        let prepared = prepare(index);
        ready.wait();
        let (mut own, start, mut done) = (prepared?, Instant::now(), 0);
        while start.elapsed() < period {
            step(&mut own)?;
            done += 1;
        }
        Ok((done, start.elapsed()))
    };
    let work = &work;
    let results = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
            .collect()
    });
    let results: Vec<Result<(u64, Duration)>> = results;
    // Each thread ends with a command of its own length; its rate is its own count by its own time.
    results
        .into_iter()
        .map(|result| result.map(|(done, time)| done as f64 / time.as_secs_f64()))
        .sum()
}

/// Reads a command's output to its end from a plain pipe; its length.
pub fn streamed(argv: &[&str]) -> Result<u64> {
    let [program, arguments @ ..] = argv else {
        return Err("no command".into());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut pipe = child.stdout.take().ok_or("no pipe")?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        match pipe.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    let status = child.wait()?;
    if status.success() {
        Ok(bytes)
    } else {
        Err(format!("{program}: {status}").into())
    }
}
