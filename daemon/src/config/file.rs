//! The configuration file: TOML, read with the place of every value, so that each error names line and column.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::policy::{Inline, Rule};

/// Largest configuration file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Most rules about access in one file: each request is compared with all of them.
const MAX_RULES: usize = 256;

/// How the daemon logs to stderr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What a configuration file sets; `None` where it is silent. See `reference.toml` for meaning, unit and default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Where the daemon listens.
    pub socket: Option<PathBuf>,
    /// Who may connect there.
    pub allowed_uids: Option<Vec<u32>>,
    /// Certificates whose holders may answer the questions of others.
    pub approvers: Option<Vec<String>>,
    /// Which policies requests may bring.
    pub inline_policies: Option<Inline>,
    /// Who may use which policies.
    pub access: Vec<Rule>,
    /// The policy of requests that name none.
    pub default_policy: Option<String>,
    /// Where policy files are.
    pub policy_dirs: Option<Vec<PathBuf>>,
    /// Runs at the same time.
    pub max_runs: Option<usize>,
    /// Runs that wait.
    pub max_queue: Option<usize>,
    /// Sessions at the same time.
    pub max_sessions: Option<usize>,
    /// Ended runs that are remembered.
    pub retained_runs: Option<usize>,
    /// For how long.
    pub retain_for: Option<Duration>,
    /// Output kept for each run.
    pub keep_bytes: Option<u64>,
    /// The most a request may ask for.
    pub max_keep_bytes: Option<u64>,
    /// How long runs may go on after SIGTERM.
    pub drain_grace: Option<Duration>,
    /// When an idle daemon ends.
    pub idle_exit: Option<Duration>,
    /// Where runs get their temporary files.
    pub scratch_dir: Option<PathBuf>,
    /// `tcp.listen`.
    pub tcp_listen: Option<SocketAddr>,
    /// `tcp.ca`.
    pub tcp_ca: Option<PathBuf>,
    /// `tcp.cert`.
    pub tcp_cert: Option<PathBuf>,
    /// `tcp.key`.
    pub tcp_key: Option<PathBuf>,
    /// `output.spill`.
    pub output_spill: Option<bool>,
    /// `output.dir`.
    pub output_dir: Option<PathBuf>,
    /// `output.run_bytes`.
    pub output_run_bytes: Option<u64>,
    /// `output.total_bytes`.
    pub output_total_bytes: Option<u64>,
    /// `output.reserve_bytes`.
    pub output_reserve_bytes: Option<u64>,
    /// `reload.runs`: whether they are waited for.
    pub reload_finish: Option<bool>,
    /// `audit.path`.
    pub audit_path: Option<PathBuf>,
    /// `audit.required`.
    pub audit_required: Option<bool>,
    /// `log.format`.
    pub log_format: Option<LogFormat>,
    /// `log.filter`.
    pub log_filter: Option<String>,
}

/// One thing that is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Everything that is wrong in a configuration file, in the file's order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileErrors {
    /// The file.
    pub path: PathBuf,
    /// The errors.
    pub errors: Vec<FileError>,
}

impl std::error::Error for FileErrors {}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(
                f,
                "{end}{}:{}:{}: {}",
                self.path.display(),
                error.line,
                error.column,
                error.message
            )?;
        }
        Ok(())
    }
}

impl File {
    /// Reads the text of a configuration file; `path` is for messages only.
    ///
    /// # Errors
    /// Everything that is wrong, each with line and column: syntax, unknown keys, wrong types, values out of range.
    pub fn parse(text: &str, path: &Path) -> Result<File, FileErrors> {
        let fail = |mut errors: Vec<(usize, String)>| {
            errors.sort();
            let errors = errors
                .into_iter()
                .map(|(offset, message)| located(text, offset, message))
                .collect();
            FileErrors {
                path: path.to_owned(),
                errors,
            }
        };
        let root = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            fail(vec![(offset, error.message().trim_end().replace('\n', ", "))])
        })?;
        let mut errors = Vec::new();
        let mut root = Table::new("", root.get_ref(), &mut errors);
        let mut file = File {
            socket: root.take("socket", absolute_path),
            allowed_uids: root.take("allowed_uids", |value| {
                list(value, |uid| integer(uid, 0, u64::from(u32::MAX) - 1))
            }),
            approvers: root.take("approvers", |value| list(value, certificate_name)),
            inline_policies: root.take("inline_policies", inline),
            default_policy: root.take("default_policy", policy_name),
            policy_dirs: root.take("policy_dirs", |value| list(value, absolute_path)),
            max_runs: root.take("max_runs", |value| integer(value, 1, 10_000)),
            max_queue: root.take("max_queue", |value| integer(value, 0, 100_000)),
            max_sessions: root.take("max_sessions", |value| integer(value, 0, 10_000)),
            retained_runs: root.take("retained_runs", |value| integer(value, 0, 1_000_000)),
            retain_for: root.take("retain_for", duration),
            keep_bytes: root.take("keep_bytes", size),
            max_keep_bytes: root.take("max_keep_bytes", size),
            drain_grace: root.take("drain_grace", duration),
            idle_exit: root.take("idle_exit", positive_duration),
            scratch_dir: root.take("scratch_dir", absolute_path),
            ..File::default()
        };
        root.tables("access", |rule| {
            let rule = Rule {
                uid: rule.take("uid", ids),
                gid: rule.take("gid", ids),
                certificate: rule.take("certificate", |value| one_or_list(value, certificate)),
                label: rule.take("label", labels).unwrap_or_default(),
                policies: rule.take("policies", |value| list(value, policy_name)),
                default: rule.take("default", policy_name),
                ceiling: rule.take("ceiling", policy_name),
                inline: rule.take("inline", inline),
            };
            file.access.push(rule);
        });
        root.table("tcp", |tcp| {
            file.tcp_listen = tcp.take("listen", address);
            file.tcp_ca = tcp.take("ca", absolute_path);
            file.tcp_cert = tcp.take("cert", absolute_path);
            file.tcp_key = tcp.take("key", absolute_path);
        });
        root.table("output", |output| {
            file.output_spill = output.take("spill", boolean);
            file.output_dir = output.take("dir", absolute_path);
            file.output_run_bytes = output.take("run_bytes", disk_size);
            file.output_total_bytes = output.take("total_bytes", disk_size);
            file.output_reserve_bytes = output.take("reserve_bytes", disk_size);
        });
        root.table("reload", |reload| {
            file.reload_finish = reload.take("runs", reload_runs);
        });
        root.table("audit", |audit| {
            file.audit_path = audit.take("path", absolute_path);
            file.audit_required = audit.take("required", boolean);
        });
        root.table("log", |log| {
            file.log_format = log.take("format", log_format);
            file.log_filter = log.take("filter", log_filter);
        });
        root.finish();
        if errors.is_empty() { Ok(file) } else { Err(fail(errors)) }
    }
}

/// A table while its keys are taken out: what nobody took is unknown.
struct Table<'t, 'e> {
    name: String,
    rest: BTreeMap<&'t str, (usize, &'t Spanned<DeValue<'t>>)>,
    known: Vec<&'static str>,
    errors: &'e mut Vec<(usize, String)>,
}

impl<'t, 'e> Table<'t, 'e> {
    fn new(name: &str, table: &'t DeTable<'t>, errors: &'e mut Vec<(usize, String)>) -> Self {
        let rest = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), (key.span().start, value)))
            .collect();
        Table {
            name: name.to_owned(),
            rest,
            known: Vec::new(),
            errors,
        }
    }

    fn take<T>(&mut self, key: &'static str, read: impl FnOnce(&DeValue<'_>) -> Result<T, String>) -> Option<T> {
        self.known.push(key);
        let (_, value) = self.rest.remove(key)?;
        match read(value.get_ref()) {
            Ok(read) => Some(read),
            Err(message) => {
                self.errors
                    .push((value.span().start, format!("{}{key}: {message}", self.name)));
                None
            }
        }
    }

    fn table(&mut self, key: &'static str, read: impl FnOnce(&mut Table<'_, '_>)) {
        self.known.push(key);
        let Some((_, value)) = self.rest.remove(key) else {
            return;
        };
        match value.get_ref() {
            DeValue::Table(table) => {
                let mut table = Table::new(&format!("{key}."), table, self.errors);
                read(&mut table);
                table.finish();
            }
            other => self
                .errors
                .push((value.span().start, format!("{key}: {}", expected("a table", other)))),
        }
    }

    /// An array of tables.
    fn tables(&mut self, key: &'static str, mut read: impl FnMut(&mut Table<'_, '_>)) {
        self.known.push(key);
        let Some((_, value)) = self.rest.remove(key) else {
            return;
        };
        let Some(tables) = value.get_ref().as_array() else {
            let message = format!(
                "{key}: {}; write [[{key}]]",
                expected("a list of tables", value.get_ref())
            );
            return self.errors.push((value.span().start, message));
        };
        if tables.len() > MAX_RULES {
            let message = format!("{key}: {} rules, more than {MAX_RULES}", tables.len());
            return self.errors.push((value.span().start, message));
        }
        for (index, table) in tables.iter().enumerate() {
            match table.get_ref() {
                DeValue::Table(table) => {
                    let mut table = Table::new(&format!("{key}[{index}]."), table, self.errors);
                    read(&mut table);
                    table.finish();
                }
                other => {
                    let message = format!("{key}[{index}]: {}; write [[{key}]]", expected("a table", other));
                    self.errors.push((table.span().start, message));
                }
            }
        }
    }

    fn finish(self) {
        for (key, (offset, _)) in self.rest {
            let help = match nearest(key, &self.known) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            let name: String = key.chars().take(80).collect();
            self.errors.push((
                offset,
                format!("unknown key `{}{}`: {help}", self.name, name.escape_debug()),
            ));
        }
    }
}

fn located(text: &str, offset: usize, message: String) -> FileError {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    FileError {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message,
    }
}

fn expected(what: &str, found: &DeValue<'_>) -> String {
    format!("expected {what}, found {}", found.type_str())
}

fn string<'v>(value: &'v DeValue<'_>, what: &str) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| expected(what, value))
}

fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

fn integer<T: TryFrom<u64>>(value: &DeValue<'_>, least: u64, most: u64) -> Result<T, String> {
    let what = format!("a whole number from {least} to {most}");
    let number = value.as_integer().ok_or_else(|| expected(&what, value))?;
    i128::from_str_radix(&number.as_str().replace('_', ""), number.radix())
        .ok()
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| (least..=most).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("{} is not {what}", number.as_str()))
}

fn list<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
    let items = value.as_array().ok_or_else(|| expected("a list", value))?;
    let read_item = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
        read(item.get_ref()).map_err(|message| format!("item {}: {message}", index + 1))
    };
    items.iter().enumerate().map(read_item).collect()
}

fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = string(value, "an absolute path")?;
    if !path.starts_with('/') || path.contains('\0') {
        return Err(format!(
            "`{}` is not an absolute path; write it from /, without ~ or variables",
            path.escape_debug()
        ));
    }
    Ok(PathBuf::from(path))
}

fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let address = string(value, "an address with port")?;
    address.parse().map_err(|_| {
        format!(
            "`{}` is not an address with port; write 127.0.0.1:7443 or [::1]:7443",
            address.escape_debug()
        )
    })
}

fn certificate_name(value: &DeValue<'_>) -> Result<String, String> {
    let name = string(value, "a certificate's name")?;
    if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
        return Err(format!(
            "`{}` is not a certificate's name: 1 to 256 bytes without control characters, such as \"ops.example.org\"",
            name.escape_debug()
        ));
    }
    Ok(name.to_owned())
}

fn policy_name(value: &DeValue<'_>) -> Result<String, String> {
    let name = string(value, "a policy's name")?;
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if name.is_empty() || name.len() > 64 || !plain || name.starts_with('.') {
        return Err(format!(
            "`{}` is not a policy's name: 1 to 64 letters, digits, - _ and .",
            name.escape_debug()
        ));
    }
    Ok(name.to_owned())
}

fn inline(value: &DeValue<'_>) -> Result<Inline, String> {
    let words = Inline::WORDS.map(|(word, _)| format!("\"{word}\"")).join(", ");
    let what = format!("one of {words}");
    let word = string(value, &what)?;
    let known = Inline::WORDS.iter().find(|(known, _)| *known == word);
    known
        .map(|(_, inline)| *inline)
        .ok_or_else(|| format!("`{}` is not {what}", word.escape_debug()))
}

/// One value, or a list of them.
fn one_or_list<T>(value: &DeValue<'_>, read: impl Fn(&DeValue<'_>) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value.as_array() {
        Some(_) => list(value, read),
        None => read(value).map(|one| vec![one]),
    }
}

fn ids(value: &DeValue<'_>) -> Result<Vec<u32>, String> {
    one_or_list(value, |id| integer(id, 0, u64::from(u32::MAX) - 1))
}

fn certificate(value: &DeValue<'_>) -> Result<String, String> {
    let pattern = string(value, "a certificate's name")?;
    let inner = pattern.strip_prefix('*').unwrap_or(pattern);
    let inner = inner.strip_suffix('*').unwrap_or(inner);
    match pattern.is_empty() || pattern.len() > 256 || inner.contains(['*', '?']) {
        true => Err(format!(
            "`{}` is not a certificate's name of 1 to 256 bytes; `*` may stand at either end",
            pattern.escape_debug()
        )),
        false => Ok(pattern.to_owned()),
    }
}

fn labels(value: &DeValue<'_>) -> Result<BTreeMap<String, String>, String> {
    let table = value
        .as_table()
        .ok_or_else(|| expected("a table such as { team = \"web\" }", value))?;
    let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        let value = string(value.get_ref(), "a string")?;
        Ok((key.to_string(), value.to_owned()))
    };
    table.iter().map(pair).collect()
}

fn reload_runs(value: &DeValue<'_>) -> Result<bool, String> {
    match string(value, "\"survive\" or \"finish\"")? {
        "survive" => Ok(false),
        "finish" => Ok(true),
        other => Err(format!("{other:?} is neither \"survive\" nor \"finish\"")),
    }
}

fn log_format(value: &DeValue<'_>) -> Result<LogFormat, String> {
    match string(value, "\"human\" or \"json\"")? {
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("`{}` is neither \"human\" nor \"json\"", other.escape_debug())),
    }
}

fn log_filter(value: &DeValue<'_>) -> Result<String, String> {
    let filter = string(value, "a filter such as \"info\"")?;
    crate::telemetry::check_filter(filter).map_err(|error| error.to_string())?;
    Ok(filter.to_owned())
}

/// A number and a unit, with or without a blank between them.
fn with_unit(value: &DeValue<'_>, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let names = units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let help = format!("write a whole number with one of {names}, such as \"{example}\"");
    let text = string(value, &format!("\"{example}\"")).map_err(|message| format!("{message}; {help}"))?;
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
        .ok_or_else(|| format!("`{}` is not understood; {help}", text.escape_debug()))
}

/// Longest duration: a year. Timers far in the future overflow elsewhere.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration as the configuration writes it: a whole number with `ms`, `s`, `m` or `h`.
fn duration(value: &DeValue<'_>) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let duration = Duration::from_millis(with_unit(value, &units, "10s")?);
    if duration > MAX_DURATION {
        Err("more than a year".to_owned())
    } else {
        Ok(duration)
    }
}

fn positive_duration(value: &DeValue<'_>) -> Result<Duration, String> {
    match duration(value)? {
        Duration::ZERO => Err("0 would end the daemon at once; leave the key out for \"never\"".to_owned()),
        duration => Ok(duration),
    }
}

const UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// An amount of disk space.
fn disk_size(value: &DeValue<'_>) -> Result<u64, String> {
    let size = with_unit(value, &UNITS, "4 GiB")?;
    if size > 1 << 50 {
        Err("more than 1,048,576 GiB".to_owned())
    } else {
        Ok(size)
    }
}

/// An amount of memory.
fn size(value: &DeValue<'_>) -> Result<u64, String> {
    let size = with_unit(value, &UNITS, "1 MiB")?;
    if size > 1 << 30 {
        Err("more than 1 GiB".to_owned())
    } else {
        Ok(size)
    }
}

/// The known key that was probably meant: at most a third of its letters differ.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    if key.len() > 64 {
        return None;
    }
    let near = known.iter().map(|candidate| (distance(key, candidate), *candidate));
    near.filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
