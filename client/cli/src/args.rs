//! The command line: what can be said, and how it is explained.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::duration;
use crate::tail::Tail;

/// Run commands in a sandbox.
#[derive(Debug, Parser)]
#[command(
    name = "fumehood",
    version,
    about,
    long_about = "Run commands in a sandbox.\n\n\
        A command run by fumehood sees the workspace, the system's programs and libraries and a private /tmp; it has no \
        network but loopback, no secrets of yours, and bounds on time, memory, processes and output. A policy says what is \
        allowed. Nothing has to be started first: the daemon that does the work starts by itself and goes away when it is idle.",
    after_help = "Examples:\n  \
        fumehood run -- cargo test                 run a command in the current directory\n  \
        fumehood run --policy locked -- ./unknown  run it with nothing but the workspace, read-only\n  \
        fumehood doctor                            see what this machine can enforce\n\n\
        `fumehood help COMMAND` says more about each command.",
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a sandbox
    Run(RunArgs),
    /// Show what this machine can enforce, what is missing, and how to mend it
    Doctor(DoctorArgs),
    /// Look at policies: list, show, check, explain, test and compare them
    Policy(PolicyArgs),
    /// List runs
    Ps(PsArgs),
    /// Sandboxes that live on between commands: make, list, show, reset and close them
    Session(SessionArgs),
    /// Look at and change files as a sandbox shows them, without a command
    Files(FilesArgs),
    /// Follow a run that is there, and write its input
    Attach(AttachArgs),
    /// Show what a run has written
    Logs(LogsArgs),
    /// Wait until runs are over
    Wait(WaitArgs),
    /// End a run
    Kill(KillArgs),
    /// Forget finished runs and their output
    Rm(RmArgs),
    /// Answer runs that wait for an approval
    Approve(ApproveArgs),
    /// Refuse a run that waits for an approval
    Deny(DenyArgs),
    /// Examine the audit log
    Audit(AuditArgs),
    /// Be the daemon, in the foreground; or `daemon reload`: have a new one take the running one's place
    Daemon(crate::daemon::Args),
    /// Show the versions of this program and of the running daemon
    Version(ConnectArgs),
    /// Restore the terminal that is standard output when standard input ends
    #[command(hide = true)]
    RestoreTerminal(crate::tty::restorer::Before),
}

/// Which daemon.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectArgs {
    /// The daemon's socket [default: $FUMEHOOD_SOCKET, else $XDG_RUNTIME_DIR/fumehood/fumehood.sock, else
    /// /tmp/fumehood-UID/fumehood.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Fail when no daemon is running, instead of starting one
    #[arg(long)]
    pub no_start: bool,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        fumehood run -- make -j4\n  \
        fumehood run --timeout 10m -v -- npm test\n  \
        fumehood run -e CI=1 -e TOKEN -- sh -c 'git log | head'\n  \
        fumehood run --policy ./ci.toml --workspace ~/project --cwd server -- pytest\n  \
        fumehood run -t -- bash\n  \
        fumehood run --detach -- npm run dev         prints an id, for `logs`, `attach`, `wait` and `kill`\n  \
        fumehood run -c 'cd web && npm test | tail'  a line for a shell\n  \
        fumehood run --session dev -c 'cd web'       in a session: the next line begins in web\n\n\
        Exit code: the command's; 128+N when signal N ended it; 124 when a time limit did; 137 when it was killed or ran out of \
        memory; 126 and 127 when it could not be executed or found; 125 when fumehood failed, the policy refused or there is no such \
        policy.\n\n\
        Signals: SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command's process group, Ctrl-Z stops and \
        resumes it. A second SIGINT within 2 seconds kills the run; so do 10 seconds after SIGTERM or SIGHUP.\n\n\
        Input: standard input is passed on as it comes, whether the command reads it or not: in a shell's \
        `while read` loop use --no-stdin.\n\n\
        Terminals: with --tty every key goes to the command, Ctrl-C and Ctrl-Z as well. After Enter, `~.` leaves at once and `~ Ctrl-Z` stops \
        this program and not the command; `~~` is one `~`. With --detach nobody is at the terminal until `fumehood attach`.\n\n\
        When this program is gone (its terminal is closed, it is killed): the run is killed; with --linger it goes on for that time and is \
        killed then, unless `fumehood attach` follows it; with --detach it does not depend on any program.")]
pub struct RunArgs {
    /// The policy that decides: a name the daemon knows, or a file (a value with a `/` or ending in `.toml`)
    #[arg(short, long, value_name = "NAME|FILE")]
    pub policy: Option<PathBuf>,
    /// The directory the command may work in [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// The working directory: absolute, or relative to the workspace [default: the current directory when it is inside the
    /// workspace, else the workspace]
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set a variable of the command, or pass on this environment's (`-e NAME`); may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = VariableParser)]
    pub env: Vec<Variable>,
    /// End the command after this time: 500ms, 10s, 1h30m; at most what the policy allows
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,
    /// Write what happens to standard output as JSON, one event a line
    #[arg(long)]
    pub json: bool,
    /// Tell at the end how it ended, what it consumed and what was enforced
    #[arg(short, long)]
    pub verbose: bool,
    /// Do not tell which protections the policy prefers and this machine lacks
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Note something about the run, for `ps` and the audit log; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Give the command no input: reading gives end of file at once
    #[arg(short = 'n', long)]
    pub no_stdin: bool,
    /// Give the command a terminal, for shells, editors, pagers; this program's own becomes its keyboard and screen
    #[arg(short, long, conflicts_with_all = ["json", "no_stdin", "merged"])]
    pub tty: bool,
    /// Start the command, print its run's id and leave it to itself; it has no input
    #[arg(short, long, conflicts_with_all = ["linger", "verbose"])]
    pub detach: bool,
    /// With --detach: keep the command's input open, for `fumehood attach --input`
    #[arg(short, long, requires = "detach", conflicts_with = "no_stdin")]
    pub interactive: bool,
    /// When this program is gone, let the run go on for this time, up to 24h, instead of killing it
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub linger: Option<Duration>,
    /// Write everything to standard output, each byte in the order in which the command wrote it, as `2>&1`
    #[arg(long)]
    pub merged: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// Run in this session (see `fumehood session`), with its workspace, policy and environment: its id, or the beginning or end of it
    #[arg(short, long, value_name = "ID", conflicts_with_all = ["policy", "workspace"])]
    pub session: Option<String>,
    /// Run this line with bash, or sh where there is no bash. In a session, the next line begins in the directory, and with the exported
    /// variables, that this one leaves
    #[arg(short = 'c', long, value_name = "LINE", conflicts_with = "command")]
    pub shell: Option<OsString>,
    /// With --shell in a session: leave it functions, aliases, options and other variables as well, or nothing
    #[arg(long, value_enum, requires = "shell", requires = "session", value_name = "WHAT")]
    pub carry: Option<Carry>,
    /// The command and its arguments
    #[arg(required_unless_present = "shell", trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// What a shell line leaves to the next one of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Carry {
    /// Nothing: what was there stays
    Nothing,
    /// The working directory and the exported variables
    Environment,
    /// Also functions, aliases, options and variables that are not exported; of bash only
    Everything,
}

/// `session`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        fumehood session create --id dev\n  \
        fumehood run -s dev -c 'cd web && npm run dev > /tmp/log 2>&1 &'\n  \
        fumehood run -s dev -c 'curl -s localhost:3000 | head'\n  \
        fumehood session show dev                    processes, ports, memory, files\n  \
        fumehood session close dev")]
pub struct SessionArgs {
    #[command(subcommand)]
    pub command: SessionCommand,
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Make a session and print its id
    Create(Box<SessionCreateArgs>),
    /// List sessions
    #[command(visible_alias = "list", after_help = "Exit code: 0, also when no daemon is running.")]
    Ls {
        /// Closed ones as well
        #[arg(short, long)]
        all: bool,
        /// Write them to standard output as JSON, one object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show a session and what is in it: processes, ports, memory, temporary files
    #[command(visible_alias = "describe")]
    Show {
        /// The session's id, or the beginning or end of it, at least 6 characters
        #[arg(value_name = "ID")]
        session: String,
        /// Write it to standard output as one JSON document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// End everything in a session and begin it anew: empty /tmp, first directory and variables
    Reset {
        /// The session's id, or the beginning or end of it, at least 6 characters
        #[arg(value_name = "ID")]
        session: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// End sessions and everything in them
    #[command(
        after_help = "Exit code: 0 when every session was or is closed, 1 when one could not be, or there is no such session."
    )]
    Close {
        /// The session's id, or the beginning or end of it, at least 6 characters
        #[arg(required = true, value_name = "ID")]
        sessions: Vec<String>,
        /// From SIGTERM to SIGKILL [default: SIGKILL at once]
        #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
        grace: Option<Duration>,
        /// Why, for the record
        #[arg(long, default_value = "")]
        reason: String,
        #[command(flatten)]
        connect: ConnectArgs,
    },
}

/// `session create`.
#[derive(Debug, Args)]
pub struct SessionCreateArgs {
    /// Its id: 1 to 128 of A-Z a-z 0-9 . _ : -; the same request with the same id is the same session [default: a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The policy that decides: a name the daemon knows, or a file (a value with a `/` or ending in `.toml`)
    #[arg(short, long, value_name = "NAME|FILE")]
    pub policy: Option<PathBuf>,
    /// The directory its commands may work in [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// The working directory of its first command: absolute, or relative to the workspace [default: as of `run`]
    #[arg(short = 'C', long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Set a variable of its commands, or pass on this environment's (`-e NAME`); may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = VariableParser)]
    pub env: Vec<Variable>,
    /// Note something about it and its runs, for lists and the audit log; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Close it when for so long no command was in it, 1s to 168h [default: 30m]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub idle_timeout: Option<Duration>,
    /// Close it so long after it was made, 1s to 168h [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub lifetime: Option<Duration>,
    /// Write it to standard output as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `files`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each call sees and may do what a command of `fumehood run` with the same --workspace and --policy, or in the same --session, \
        sees and may do; protected paths are protected, and every reading and change is in the audit log. Without --session the call has a \
        sandbox of its own: what it writes to /tmp or the home directory is gone afterwards.\n\n\
        Paths are absolute, or relative to the workspace; in a session, to the directory where its next shell line begins.\n\n\
        Examples:\n  \
        fumehood files ls -l src\n  \
        fumehood files cat Cargo.toml | head\n  \
        fumehood files write notes/today.md < draft     replaces it atomically\n  \
        fumehood files rm -r target -s dev\n\n\
        Exit code: 0; 1 when something is wrong with a file; 125 when fumehood failed, or the policy refused."
)]
pub struct FilesArgs {
    #[command(subcommand)]
    pub command: FilesCommand,
}

/// Whose files.
#[derive(Debug, Clone, Args)]
pub struct ViewArgs {
    /// As this session shows them: its id, or the beginning or end of it
    #[arg(short, long, value_name = "ID", conflicts_with_all = ["policy", "workspace"])]
    pub session: Option<String>,
    /// As a command in this workspace sees them [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// The policy that decides: a name the daemon knows, or a file (a value with a `/` or ending in `.toml`)
    #[arg(long, value_name = "NAME|FILE")]
    pub policy: Option<PathBuf>,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// What to do with files.
#[derive(Debug, Subcommand)]
pub enum FilesCommand {
    /// Show what paths are
    Stat {
        /// The paths
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Of a symbolic link, show the link and not what it leads to
        #[arg(short = 'P', long)]
        no_follow: bool,
        /// Write them to standard output as JSON, one object a line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// List a directory, in the order of names as bytes
    Ls {
        /// The directory [default: the workspace, or the session's directory]
        #[arg(default_value = ".", value_name = "PATH")]
        path: PathBuf,
        /// With kind, permissions, owner, size and time
        #[arg(short, long)]
        long: bool,
        /// Write the entries to standard output as JSON, one object a line
        #[arg(long, conflicts_with = "long")]
        json: bool,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Write files' contents to standard output
    Cat {
        /// The files
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// From this byte on
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        offset: u64,
        /// At most so many bytes of each
        #[arg(long, value_name = "BYTES")]
        length: Option<u64>,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Make a file of standard input, or replace it, atomically
    Write {
        /// The file
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// Only where nothing is yet
        #[arg(short = 'x', long, conflicts_with = "append")]
        create: bool,
        /// Behind what is there; not atomically
        #[arg(short, long)]
        append: bool,
        /// Permission bits of a new file, octal, 0 to 777 [default: 644]
        #[arg(short, long, value_name = "BITS", value_parser = parse_mode)]
        mode: Option<u32>,
        /// Make missing directories above it
        #[arg(short, long)]
        parents: bool,
        /// Have it on disk before this program ends
        #[arg(long)]
        sync: bool,
        /// Write what it is then to standard output as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Make directories
    Mkdir {
        /// The directories
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Make missing ones above them; those that are there are no error
        #[arg(short, long)]
        parents: bool,
        /// Permission bits, octal, 0 to 777 [default: 755]
        #[arg(short, long, value_name = "BITS", value_parser = parse_mode)]
        mode: Option<u32>,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Remove files, symbolic links and directories
    Rm {
        /// What to remove
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Directories with all that is in them
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        view: ViewArgs,
    },
    /// Give a file or directory another name
    Mv {
        /// The old name
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// The new name, not a directory to move it into
        #[arg(value_name = "TO")]
        to: PathBuf,
        /// Only where nothing is yet, instead of replacing what is there
        #[arg(short, long)]
        no_clobber: bool,
        #[command(flatten)]
        view: ViewArgs,
    },
}

/// `doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when a command can be run here under the default policy with everything it requires in force, else 1."
)]
pub struct DoctorArgs {
    /// Write the findings to standard output as one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List the policies; `*` marks the default, `^` one that holds over all others
    List {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Show a policy's text
    #[command(after_help = "Examples:\n  \
        fumehood policy show default\n  \
        fumehood policy show --resolved ./ci.toml    every key, with what the file extends and what is not stated")]
    Show {
        /// Its name, or a file (a value with a `/` or ending in `.toml`) [default: the default policy]
        name: Option<String>,
        /// The whole policy that comes of it, as one file that extends nothing
        #[arg(long)]
        resolved: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Have the daemon read its policy files again
    #[command(
        after_help = "Exit code: 0 when they were read; 125 when one is wrong: the policies that were there stay. SIGHUP does the same."
    )]
    Reload {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Trust a project's own policy file, or one that requests bring, as it is now
    #[command(
        after_help = "Shows what trusting gives beyond the policy that holds otherwise, and asks. A file that is changed is untrusted again.\n\n\
            Exit code: 0 when it is trusted, 1 when it is not because the answer was no."
    )]
    Trust {
        /// A policy file, or a directory with a .fumehood.toml
        #[arg(default_value = ".", value_name = "FILE|DIR")]
        path: PathBuf,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Trust a file no more
    Untrust {
        /// A policy file, or a directory with a .fumehood.toml
        #[arg(default_value = ".", value_name = "FILE|DIR")]
        path: PathBuf,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// List the files that are trusted
    Trusted {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Check policy files: every error, and what in them is useless or dangerous
    #[command(after_help = "Examples:\n  \
        fumehood policy check .fumehood.toml\n  \
        fumehood policy check --deny-warnings policies/*.toml\n\n\
        Exit code: 0 when every file can be used, 1 when one has errors, or with --deny-warnings a warning. No daemon is asked.")]
    Check {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Warnings count as errors; notes never do
        #[arg(long)]
        deny_warnings: bool,
        /// Write the findings to standard output as one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Explain what a policy comes to, where each line of it comes from, and what it decides, without running anything
    Explain(Box<ExplainArgs>),
    /// Try the expectations of policy files, without running anything
    #[command(
        after_help = "Expectations are [[tests]] in the file, or in NAME.test.toml beside NAME.toml.\n\n\
        Examples:\n  \
        fumehood policy test\n  \
        fumehood policy test policies/ci.toml policies/ceiling.toml\n\n\
        Exit code: 0 when all hold, 1 when one does not or a file has errors. No daemon is asked."
    )]
    Test {
        /// The policy files [default: .fumehood.toml]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Write the results to standard output as one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Say in words what one policy lets through that another does not, both ways
    #[command(after_help = "Examples:\n  \
        fumehood policy diff default ./ci.toml\n  \
        fumehood policy diff ci.toml.orig.toml ci.toml\n\n\
        Files and built-in policies are compared without a daemon; other names are those the daemon knows.")]
    Diff {
        /// A name, or a file (a value with a `/` or ending in `.toml`)
        #[arg(value_name = "A")]
        a: String,
        /// Another
        #[arg(value_name = "B")]
        b: String,
        /// The workspace that paths are compared for [default: the current directory]
        #[arg(short, long, value_name = "DIR")]
        workspace: Option<PathBuf>,
        /// Write the differences to standard output as one JSON document
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Propose the smallest policy for a command, from watching it
    Learn(Box<LearnArgs>),
    /// Print the JSON Schema of policy files, for editors
    Schema,
}

/// `policy explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "It is told for a run of yours in the workspace: the policy together with the project's .fumehood.toml, access rules and \
        ceilings. Where a run would be refused whatever its command, that is said first. Without a question: what files state, each \
        value with its file and line.\n\n\
        Examples:\n  \
        fumehood policy explain\n  \
        fumehood policy explain --policy ./ci.toml --read ~/.ssh/id_ed25519\n  \
        fumehood policy explain --policy default --host crates.io:443 --env GITHUB_TOKEN\n  \
        fumehood policy explain --policy .fumehood.toml -- git push --force\n\n\
        Paths are not looked at: that one exists, is a link, or may be read outside is not known here. Exit code: 0, whatever \
        the policy says; 1 when there is no such policy or a file has errors."
)]
pub struct ExplainArgs {
    /// The policy: a name, or a file (a value with a `/` or ending in `.toml`) [default: what holds here without one]
    #[arg(short, long, value_name = "NAME|FILE")]
    pub policy: Option<PathBuf>,
    /// The workspace [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// A label that the run would have: access rules may look at it; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Whether this path is read; may be repeated, as the others
    #[arg(long, value_name = "PATH")]
    pub read: Vec<PathBuf>,
    /// Whether this path is written
    #[arg(long, value_name = "PATH")]
    pub write: Vec<PathBuf>,
    /// Whether this path is executed
    #[arg(long, value_name = "PATH")]
    pub execute: Vec<PathBuf>,
    /// Whether this TCP port of this host is reached
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_host)]
    pub host: Vec<(String, u16)>,
    /// Whether this variable of the caller is passed on
    #[arg(long, value_name = "NAME")]
    pub env: Vec<String>,
    /// Show every value, also those of built-in policies and those that no file states
    #[arg(long)]
    pub all: bool,
    /// Write everything to standard output as one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// What is decided about this command
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `policy learn`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
        fumehood policy learn -o .fumehood.toml --name shop -- npm test\n  \
        fumehood policy learn -- cargo test --offline\n  \
        fumehood policy learn --observations -- make\n\n\
        The command runs where all of its changes vanish, those of the workspace as well: once to be watched, under a policy that lets more \
        through, then under the proposal to prove it. Each time it sees what that policy shows and no more; secrets stay hidden and are \
        never proposed. What it writes goes to standard error, the proposal to standard output or the file.\n\n\
        Exit code: 0 when the command ended under the proposal as it did before; 1 when it did not; 125 when fumehood failed.")]
pub struct LearnArgs {
    /// Write the proposal to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file when it exists
    #[arg(long, requires = "output")]
    pub force: bool,
    /// The name of the proposed policy
    #[arg(long, default_value = "learnt")]
    pub name: String,
    /// Give the command the network of the policy that it is watched under, instead of loopback at most
    #[arg(long)]
    pub network: bool,
    /// Show what the command asked for, one thing a line, and propose nothing
    #[arg(long, conflicts_with_all = ["output", "name"])]
    pub observations: bool,
    /// The policy that it is watched under, which the proposal never exceeds: a name or a file, as for `run`
    #[arg(short, long, value_name = "NAME|FILE")]
    pub policy: Option<PathBuf>,
    /// The directory the command may work in [default: the current directory]
    #[arg(short, long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Set a variable of the command, or pass on this environment's (`-e NAME`); may be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = VariableParser)]
    pub env: Vec<Variable>,
    #[command(flatten)]
    pub connect: ConnectArgs,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// `ps`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0, also when no daemon is running; 1 when none listens on the socket that --socket names."
)]
pub struct PsArgs {
    /// Finished runs as well
    #[arg(short, long)]
    pub all: bool,
    /// Write them to standard output as JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `kill`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 when every run was ended or had ended, 1 when one could not be, or there is no such run."
)]
pub struct KillArgs {
    /// The run's id, as `ps` shows it, or the beginning or end of it, at least 6 characters
    #[arg(required = true, value_name = "RUN ID")]
    pub run_ids: Vec<String>,
    /// From SIGTERM to SIGKILL; 0s: SIGKILL at once [default: as the run's policy says]
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    pub grace: Option<Duration>,
    /// Why, for the record
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Write the runs as they are then to standard output as JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `attach`.
#[derive(Debug, Args)]
#[command(
    after_help = "Any program of the same user can attach to a run, whoever started it, and as many as like.\n\n\
        Ctrl-C (and SIGTERM, SIGHUP, SIGQUIT): this program lets go of the run, which goes on. With --signals they are the command's, as with \
        `fumehood run`, and as `docker attach` does it; end this program then with `fumehood kill`, or by closing its output.\n\n\
        A run with a terminal, attached to at a terminal: that becomes its keyboard and screen, and its size. Every key goes to the command; \
        after Enter, `~.` lets go of the run and `~ Ctrl-Z` stops this program; `~~` is one `~`. With several attached all keys count, and the \
        last size.\n\n\
        Examples:\n  \
        fumehood attach 5a05a5efea                  what is written from now on\n  \
        fumehood attach --from-start 5a05a5efea     everything that is kept, and on\n  \
        echo reload | fumehood attach --input 5a05a5efea\n\n\
        Exit code: the command's, as of `fumehood run`, when it ended; 0 when this program let go of it; 125 when fumehood failed, or there \
        is no such run."
)]
#[command(group = clap::ArgGroup::new("begin").args(["from_start", "tail"]))]
pub struct AttachArgs {
    /// The run's id, as `ps` shows it, or the beginning or end of it, at least 6 characters
    #[arg(value_name = "RUN ID")]
    pub run_id: String,
    /// Begin with all that is kept, instead of now
    #[arg(long)]
    pub from_start: bool,
    /// Begin with the last N lines, or with a unit, bytes: 20, 512B, 64K, 1M
    #[arg(long, value_name = "N", value_parser = Tail::parse)]
    pub tail: Option<Tail>,
    /// Pass standard input on to the command; its end is the end of the command's
    #[arg(short, long)]
    pub input: bool,
    /// Pass signals on to the command's process group
    #[arg(long)]
    pub signals: bool,
    /// Write what happens to standard output as JSON, one event a line
    #[arg(long)]
    pub json: bool,
    /// Do not tell how to let go of the run
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `logs`.
#[derive(Debug, Args)]
#[command(
    after_help = "Output goes where the command wrote it: standard output or standard error.\n\n\
        Examples:\n  \
        fumehood logs 5a05a5efea                what was written so far\n  \
        fumehood logs -f --tail 20 5a05a5efea   the last 20 lines, and what comes\n\n\
        Exit code: 0; 125 when fumehood failed, or there is no such run."
)]
pub struct LogsArgs {
    /// The run's id, as `ps` shows it, or the beginning or end of it, at least 6 characters
    #[arg(value_name = "RUN ID")]
    pub run_id: String,
    /// Go on until the run is over
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines, or with a unit, bytes: 20, 512B, 64K, 1M; at most 16M are looked through
    #[arg(short = 'n', long, value_name = "N", value_parser = Tail::parse)]
    pub tail: Option<Tail>,
    /// Write what happened to standard output as JSON, one event a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `wait`.
#[derive(Debug, Args)]
#[command(after_help = "Prints how each run ended.\n\n\
        Exit code: the command's, as of `fumehood run`, of several the last one's; 124 when --timeout was over first; 125 when fumehood \
        failed, or there is no such run.")]
pub struct WaitArgs {
    /// The run's id, as `ps` shows it, or the beginning or end of it, at least 6 characters
    #[arg(required = true, value_name = "RUN ID")]
    pub run_ids: Vec<String>,
    /// Wait no longer than this, for all of them
    #[arg(short, long, value_name = "DURATION", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Write the runs as they are then to standard output as JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `rm`.
#[derive(Debug, Args)]
#[command(after_help = "The audit log keeps its records of them.\n\n\
        Exit code: 0 when every run was forgotten, 1 when one could not be, or there is no such run.")]
pub struct RmArgs {
    /// The run's id, as `ps` shows it, or the beginning or end of it, at least 6 characters
    #[arg(required = true, value_name = "RUN ID")]
    pub run_ids: Vec<String>,
    /// Kill the run first when it is not finished
    #[arg(short, long)]
    pub force: bool,
    /// Write what was forgotten to standard output as JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `approve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without an id, and at a terminal, each question that waits is shown and asked.\n\n\
        Whoever asked may not answer, unless the policy says so (approvals.self). Root and the daemon's own user may answer others, and so may \
        certificates that the daemon's configuration names in `approvers`.\n\n\
        An answer for the session or always holds for the same identity, under the policy as it is now, in the same workspace and working \
        directory, and in the same environment; of that, TERM, COLUMNS, LINES, COLORTERM, LANG, LANGUAGE, LC_*, TZ, NO_COLOR, FORCE_COLOR and \
        CLICOLOR* make no difference. What takes its commands from standard input can be allowed once only. --rules shows why an answer was \
        not applied to the last run that asked the same.\n\n\
        Examples:\n  \
        fumehood approve                          answer what waits, one after the other\n  \
        fumehood approve 1f0c3a9e --session       allow it, and the same again until the daemon ends or 24 hours are over\n  \
        fumehood approve --rules                  what was allowed for a session or always\n  \
        fumehood approve --forget 0d4be1f2a6c9    take such an answer back\n\n\
        Exit code: 0; 1 when an answer was not taken, or there is no such question or rule."
)]
#[command(group = clap::ArgGroup::new("what").args(["approval_id", "list", "watch", "rules", "forget"]))]
#[command(group = clap::ArgGroup::new("answer").args(["session", "always"]).requires("approval_id"))]
pub struct ApproveArgs {
    /// The question's id, as `fumehood run` and --list show it: allow it, once unless told otherwise
    #[arg(value_name = "APPROVAL ID")]
    pub approval_id: Option<String>,
    /// Allow it for the session: until the daemon ends, and under the same label `session`
    #[arg(long)]
    pub session: bool,
    /// Allow exactly this command for always
    #[arg(long)]
    pub always: bool,
    /// Why, for the record and whoever asked
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// List what waits
    #[arg(long)]
    pub list: bool,
    /// Tell what waits, and every change, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// List what was allowed for a session or always
    #[arg(long)]
    pub rules: bool,
    /// Take such an answer back
    #[arg(long, value_name = "RULE ID")]
    pub forget: Option<String>,
    /// Write --list, --watch and --rules as JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `deny`.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0; 1 when the answer was not taken, or there is no such question.")]
pub struct DenyArgs {
    /// The question's id
    #[arg(value_name = "APPROVAL ID")]
    pub approval_id: String,
    /// Why, for the record and whoever asked
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What to do with the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check that no record was edited, removed or reordered; exit code 1 when one was
    Verify {
        /// The log [default: this user's]
        file: Option<PathBuf>,
    },
    /// Tell what was asked, decided and done, a line a record, in words
    Show(AuditShowArgs),
}

/// `audit show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Times are UTC. Records are told as they stand, not verified: `fumehood audit verify` does that. Of this user's logs, if there \
        are several, one story is made. Long values are cut; --json has all of them.\n\n\
        Examples:\n  \
        fumehood audit show --last 20              the latest of this user's logs\n  \
        fumehood audit show --run b7f87798714a     one run, with the questions asked about it\n  \
        fumehood audit show /mnt/audit.jsonl | grep denied\n\n\
        Exit code: 0; 1 when a line is no record (the rest is told), or --run names no run, or more than one; 125 when a log cannot be read."
)]
pub struct AuditShowArgs {
    /// The log [default: this user's]
    pub file: Option<PathBuf>,
    /// Only this run: its id, or the beginning or end of it, at least 6 characters
    #[arg(long, value_name = "RUN ID")]
    pub run: Option<String>,
    /// Only the last N records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub last: Option<u16>,
    /// Write the records themselves, JSON, one a line
    #[arg(long)]
    pub json: bool,
}

/// A variable of `-e`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// `NAME=VALUE`.
    Set(OsString, OsString),
    /// `NAME`: the value is this environment's.
    Pass(OsString),
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text).map_err(|error| error.to_string())?;
    if timeout.is_zero() {
        Err("must be more than zero".to_owned())
    } else {
        Ok(timeout)
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err("must be octal, 0 to 777".to_owned()),
    }
}

fn parse_host(text: &str) -> Result<(String, u16), String> {
    let wrong = || "must be HOST:PORT, as example.org:443 or [::1]:80".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        true => Err(wrong()),
        false => Ok((host.to_ascii_lowercase(), port)),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be KEY=VALUE".to_owned()),
    }
}

/// Not UTF-8 on purpose: on Linux, neither names nor values of variables need be.
#[derive(Clone)]
struct VariableParser;

impl clap::builder::TypedValueParser for VariableParser {
    type Value = Variable;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Variable, clap::Error> {
        parse_variable(value).map_err(|message| {
            let shown = value.to_string_lossy();
            clap::Error::raw(
                clap::error::ErrorKind::ValueValidation,
                format!("invalid value '{shown}' for '--env': {message}\n"),
            )
            .with_cmd(command)
        })
    }
}

fn parse_variable(text: &std::ffi::OsStr) -> Result<Variable, &'static str> {
    let bytes = text.as_bytes();
    let name = bytes.split(|byte| *byte == b'=').next().unwrap_or_default();
    if name.is_empty() {
        return Err("must be NAME=VALUE or NAME");
    }
    if name
        .iter()
        .any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
    {
        return Err("the name holds a blank or a control character");
    }
    let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    Ok(match bytes.get(name.len() + 1..) {
        Some(value) => Variable::Set(owned(name), owned(value)),
        None => Variable::Pass(owned(name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
        let all = ["fumehood", "run"].iter().chain(arguments);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Command::Run(run) => run,
            other => panic!("not run: {other:?}"),
        })
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_after_the_command_are_the_commands() {
        for arguments in [&["-v", "ls", "-l", "--json"][..], &["-v", "--", "ls", "-l", "--json"]] {
            let run = run(arguments).unwrap();
            assert_eq!(run.command, ["ls", "-l", "--json"]);
            assert!(run.verbose && !run.json);
        }
    }

    #[test]
    fn a_double_dash_of_the_command_is_kept() {
        assert_eq!(
            run(&["--", "git", "log", "--", "file"]).unwrap().command,
            ["git", "log", "--", "file"]
        );
        assert_eq!(
            run(&["git", "log", "--", "file"]).unwrap().command,
            ["git", "log", "--", "file"]
        );
    }

    #[test]
    fn an_unknown_option_before_the_command_is_an_error() {
        assert!(run(&["--tiemout", "1s", "ls"]).is_err());
        assert!(run(&[]).is_err());
    }

    #[test]
    fn variables_are_set_or_passed_on() {
        let run = run(&["-e", "A=1", "-e", "B", "--env", "C==x", "-e", "D=", "true"]).unwrap();
        let set = |name: &str, value: &str| Variable::Set(name.into(), value.into());
        assert_eq!(
            run.env,
            [set("A", "1"), Variable::Pass("B".into()), set("C", "=x"), set("D", "")]
        );
    }

    #[test]
    fn malformed_values_are_refused() {
        for arguments in [
            ["-e", "=x", "true"],
            ["-e", "A B=1", "true"],
            ["-e", "A\n", "true"],
            ["--label", "x", "true"],
            ["--label", "=x", "true"],
            ["--timeout", "10", "true"],
            ["--timeout", "0s", "true"],
        ] {
            assert!(run(&arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_variable_need_not_be_utf_8() {
        let value = OsString::from_vec(b"A=\xff".to_vec());
        let all: Vec<OsString> = vec!["fumehood".into(), "run".into(), "-e".into(), value, "true".into()];
        let Command::Run(run) = Cli::try_parse_from(all).unwrap().command else {
            panic!()
        };
        assert_eq!(run.env, [Variable::Set("A".into(), OsString::from_vec(vec![0xff]))]);
    }
}
