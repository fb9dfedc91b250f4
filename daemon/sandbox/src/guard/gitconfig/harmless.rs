//! The variables a sandboxed command may set: an allow-list, as data.
//!
//! Each group says who needs it. What is not here may be neither added nor changed nor removed. Left out on purpose,
//! though it looks harmless: `rebase.instructionFormat` (`%n` writes `exec` lines into the list of a rebase),
//! `branch.*.mergeOptions`, `pull.twohead` and `merge.default` (name a strategy or driver to run), `commit.template`
//! (reads any file), `help.autoCorrect` (runs another command than the one typed), `push.pushOption`,
//! `core.protectNTFS` and `*.fsckObjects` (protections), `protocol.*`.

use super::parse::Entry;
use super::programs::matches;

/// Which values are harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    Bool,
    /// A number with an optional unit `k`, `m` or `g`.
    Int,
    /// Exactly one of these, in any case.
    Words(&'static [&'static str]),
    BoolOr(&'static [&'static str]),
    IntOr(&'static [&'static str]),
    BoolOrInt,
    /// One line of text for people: at most 1024 bytes without control characters.
    Text,
    /// The same with line breaks, at most 64 KiB.
    Lines,
    /// Letters, digits and `#,.:_-` with blanks between: colours, lists of words, sort keys.
    Plain,
    /// A path below the working tree: relative, no `..`.
    Below,
    /// A full name of a reference, `refs/...`.
    Reference,
    /// What a remote fetches into where.
    Refspec,
    /// The name of a remote, or `.`.
    Remote,
    /// The name of a remote that pushes go to.
    PushRemote,
    /// The name of a remote from which missing objects are fetched.
    PromisorRemote,
    /// What a remote or submodule reaches; only where it had no address before.
    Address,
    /// `true`, for a remote that is reached by network and has no other way to be run by `git status`.
    Promisor,
    /// `true`, for a remote that fetches nothing yet, or everything into the same places.
    Mirror,
    Worktree,
    /// A boolean; true only for a repository that has no working tree.
    Bare,
    /// Whether others may write: only in a repository of this run's own.
    Shared,
}

/// May an entry that was there be taken away or changed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    Free,
    /// It may only be added where the variable was not set: taking it away would bring something back.
    Kept,
}

use Removal::{Free, Kept};
use Values::{
    Address, Bare, Below, Bool, BoolOr, BoolOrInt, Int, IntOr, Lines, Mirror, Plain, Promisor, PromisorRemote,
    PushRemote, Reference, Refspec, Remote, Shared, Text, Words, Worktree,
};

const OFF: Values = Words(&["false"]);
const TRUE: Values = Words(&["true"]);

#[rustfmt::skip]
const TABLE: &[(&str, Values, Removal)] = &[
    // git init, git clone: what the file system can do, and the kind of repository.
    ("core.repositoryformatversion", Words(&["0", "1"]), Free), ("core.filemode", Bool, Free), ("core.bare", Bare, Free),
    ("core.logallrefupdates", BoolOr(&["always"]), Free), ("core.ignorecase", Bool, Free),
    ("core.precomposeunicode", Bool, Free), ("core.symlinks", Bool, Free),
    ("init.defaultbranch", Plain, Free),
    // git init --shared. Its second line refuses pushes, and so may not be taken back.
    ("core.sharedrepository", Shared, Free), ("receive.denynonfastforwards", TRUE, Kept),
    ("extensions.noop", Text, Free), ("extensions.noop-v1", Text, Free),
    ("extensions.objectformat", Words(&["sha1", "sha256"]), Free),
    ("extensions.compatobjectformat", Words(&["sha1", "sha256"]), Free),
    ("extensions.refstorage", Words(&["files", "reftable"]), Free),
    ("extensions.relativeworktrees", Bool, Free), ("extensions.partialclone", PromisorRemote, Free),
    // Without these, objects that another repository needs are deleted, and settings in config.worktree end.
    ("extensions.preciousobjects", TRUE, Kept), ("extensions.worktreeconfig", TRUE, Kept),
    // A submodule's own repository, git worktree add in a bare repository.
    ("core.worktree", Worktree, Free),
    // Line endings and names, set by projects' set-up scripts.
    ("core.autocrlf", BoolOr(&["input"]), Free), ("core.eol", Words(&["lf", "crlf", "native"]), Free),
    ("core.safecrlf", BoolOr(&["warn"]), Free), ("core.quotepath", Bool, Free), ("core.whitespace", Plain, Free),
    ("core.abbrev", IntOr(&["auto", "no", "off", "false"]), Free), ("core.longpaths", Bool, Free),
    ("core.checkroundtripencoding", Plain, Free), ("core.warnambiguousrefs", Bool, Free),
    ("i18n.commitencoding", Plain, Free), ("i18n.logoutputencoding", Plain, Free),
    // Speed and storage: git maintenance, scalar, large repositories.
    ("core.untrackedcache", BoolOr(&["keep"]), Free), ("core.splitindex", Bool, Free), ("core.preloadindex", Bool, Free),
    ("core.commitgraph", Bool, Free), ("core.multipackindex", Bool, Free), ("core.compression", Int, Free),
    ("core.loosecompression", Int, Free), ("core.bigfilethreshold", Int, Free), ("core.packedgitlimit", Int, Free),
    ("core.packedgitwindowsize", Int, Free), ("core.deltabasecachelimit", Int, Free), ("core.trustctime", Bool, Free),
    ("core.checkstat", Words(&["default", "minimal"]), Free), ("core.fscache", Bool, Free),
    ("core.fsync", Plain, Free), ("core.fsyncmethod", Words(&["fsync", "writeout-only", "batch"]), Free),
    ("core.fsyncobjectfiles", Bool, Free), ("feature.manyfiles", Bool, Free),
    ("index.version", Int, Free), ("index.threads", BoolOrInt, Free), ("index.sparse", Bool, Free),
    ("index.recordoffsettable", Bool, Free), ("index.skiphash", Bool, Free),
    ("pack.threads", Int, Free), ("pack.window", Int, Free), ("pack.depth", Int, Free), ("pack.windowmemory", Int, Free),
    ("pack.deltacachesize", Int, Free), ("pack.deltacachelimit", Int, Free), ("pack.compression", Int, Free),
    ("pack.packsizelimit", Int, Free), ("pack.usebitmaps", Bool, Free), ("pack.usesparse", Bool, Free),
    ("pack.writereverseindex", Bool, Free), ("pack.indexversion", Int, Free), ("repack.writebitmaps", Bool, Free),
    ("repack.usedeltabaseoffset", Bool, Free), ("repack.packkeptobjects", Bool, Free),
    ("gc.auto", Int, Free), ("gc.autopacklimit", Int, Free), ("gc.autodetach", Bool, Free),
    ("gc.bigpackthreshold", Int, Free), ("gc.writecommitgraph", Bool, Free), ("gc.packrefs", BoolOr(&["notbare"]), Free),
    ("gc.aggressivedepth", Int, Free), ("gc.aggressivewindow", Int, Free), ("gc.cruftpacks", Bool, Free),
    ("gc.maxcruftsize", Int, Free),
    // Keeping longer is harmless, and so may not be taken back: the user's next gc would delete.
    ("gc.pruneexpire", Words(&["never"]), Kept), ("gc.reflogexpire", Words(&["never"]), Kept),
    ("gc.reflogexpireunreachable", Words(&["never"]), Kept),
    // scalar register.
    ("credential.*.usehttppath", TRUE, Kept), ("credential.validate", Bool, Free), ("gui.gcwarning", Bool, Free),
    ("receive.autogc", Bool, Free), ("feature.experimental", Bool, Free), ("commitgraph.changedpaths", Bool, Free),
    ("commitgraph.generationversion", Int, Free), ("log.excludedecoration", Reference, Free),
    ("maintenance.auto", Bool, Free), ("maintenance.autodetach", Bool, Free),
    ("maintenance.strategy", Words(&["none", "incremental"]), Free),
    ("maintenance.gc.enabled", Bool, Free), ("maintenance.commit-graph.enabled", Bool, Free),
    ("maintenance.loose-objects.enabled", Bool, Free), ("maintenance.incremental-repack.enabled", Bool, Free),
    ("maintenance.pack-refs.enabled", Bool, Free), ("maintenance.commit-graph.auto", Int, Free),
    ("maintenance.loose-objects.auto", Int, Free), ("maintenance.incremental-repack.auto", Int, Free),
    // The file system monitor off, and only where nobody chose: true and every other value start a program.
    ("core.fsmonitor", Words(&["false", ""]), Kept),
    // git sparse-checkout.
    ("core.sparsecheckout", Bool, Free), ("core.sparsecheckoutcone", Bool, Free),
    // git remote add, rename, remove, set-branches; git clone --mirror, --filter, --no-tags.
    ("remote.*.url", Address, Kept), ("remote.*.fetch", Refspec, Free),
    ("remote.*.tagopt", Words(&["--tags", "--no-tags"]), Free), ("remote.*.prune", Bool, Free),
    ("remote.*.prunetags", Bool, Free), ("remote.*.skipdefaultupdate", Bool, Free), ("remote.*.skipfetchall", Bool, Free),
    ("remote.*.followremotehead", Words(&["create", "always", "warn", "never"]), Free),
    ("remote.*.mirror", Mirror, Kept), ("remote.*.promisor", Promisor, Kept), ("remote.*.partialclonefilter", Text, Free),
    ("remote.pushdefault", PushRemote, Free), ("checkout.defaultremote", Remote, Free),
    // push -u, switch -c, branch --set-upstream-to, branch --edit-description.
    ("branch.*.remote", Remote, Free), ("branch.*.pushremote", PushRemote, Free), ("branch.*.merge", Reference, Free),
    ("branch.*.rebase", BoolOr(&["merges", "m"]), Free), ("branch.*.description", Lines, Free),
    ("branch.autosetupmerge", BoolOr(&["always", "inherit", "simple"]), Free),
    ("branch.autosetuprebase", Words(&["never", "local", "remote", "always"]), Free), ("branch.sort", Plain, Free),
    // Notes that VS Code, its pull request extension, GitLens and gh keep for themselves.
    ("branch.*.vscode-merge-base", Text, Free), ("branch.*.gh-merge-base", Text, Free),
    ("branch.*.github-pr-owner-number", Text, Free), ("branch.*.github-pr-base-branch", Text, Free),
    ("branch.*.gk-merge-base", Text, Free), ("branch.*.gk-merge-target", Text, Free), ("remote.*.gh-resolved", Text, Free),
    // git submodule add, init, update, deinit; git clone --recurse-submodules.
    ("submodule.*.url", Address, Kept), ("submodule.*.active", Bool, Free), ("submodule.*.branch", Text, Free),
    ("submodule.*.update", Words(&["checkout", "rebase", "merge", "none"]), Free),
    ("submodule.*.ignore", Words(&["none", "dirty", "untracked", "all"]), Free), ("submodule.*.shallow", Bool, Free),
    ("submodule.*.fetchrecursesubmodules", BoolOr(&["on-demand"]), Free), ("submodule.active", Text, Free),
    ("submodule.recurse", Bool, Free), ("submodule.fetchjobs", Int, Free),
    // Who commits: every test suite that makes a repository.
    ("user.name", Text, Free), ("user.email", Text, Free), ("user.useconfigonly", Bool, Free),
    ("author.name", Text, Free), ("author.email", Text, Free), ("committer.name", Text, Free),
    ("committer.email", Text, Free),
    // No signing, for the same test suites, and only where nobody chose.
    ("commit.gpgsign", OFF, Kept), ("tag.gpgsign", OFF, Kept), ("tag.forcesignannotated", OFF, Kept),
    ("push.gpgsign", OFF, Kept), ("log.showsignature", OFF, Kept),
    // How pull, push, fetch, merge and rebase behave.
    ("pull.rebase", BoolOr(&["merges", "m"]), Free), ("pull.ff", BoolOr(&["only"]), Free),
    ("push.default", Words(&["nothing", "current", "upstream", "tracking", "simple", "matching"]), Free),
    ("push.autosetupremote", Bool, Free), ("push.followtags", Bool, Free), ("push.negotiate", Bool, Free),
    ("push.useforceifincludes", Bool, Free), ("push.usebitmaps", Bool, Free),
    ("push.recursesubmodules", Words(&["check", "on-demand", "only", "no", "false"]), Free),
    ("fetch.prune", Bool, Free), ("fetch.prunetags", Bool, Free), ("fetch.parallel", Int, Free),
    ("fetch.writecommitgraph", Bool, Free), ("fetch.showforcedupdates", Bool, Free), ("fetch.unpacklimit", Int, Free),
    ("fetch.output", Words(&["full", "compact"]), Free), ("fetch.recursesubmodules", BoolOr(&["on-demand"]), Free),
    ("merge.conflictstyle", Words(&["merge", "diff3", "zdiff3"]), Free), ("merge.ff", BoolOr(&["only"]), Free),
    ("merge.renames", BoolOr(&["copies", "copy"]), Free), ("merge.renamelimit", Int, Free),
    ("merge.directoryrenames", BoolOr(&["conflict"]), Free), ("merge.stat", BoolOr(&["compact", "diffstat"]), Free),
    ("merge.log", BoolOrInt, Free), ("merge.autostash", Bool, Free), ("merge.verbosity", Int, Free),
    ("merge.branchdesc", Bool, Free),
    ("rerere.enabled", Bool, Free), ("rerere.autoupdate", Bool, Free),
    ("rebase.autostash", Bool, Free), ("rebase.autosquash", Bool, Free), ("rebase.stat", Bool, Free),
    ("rebase.updaterefs", Bool, Free), ("rebase.abbreviatecommands", Bool, Free), ("rebase.forkpoint", Bool, Free),
    ("rebase.reschedulefailedexec", Bool, Free), ("rebase.backend", Words(&["merge", "apply"]), Free),
    ("rebase.missingcommitscheck", Words(&["ignore", "warn", "error"]), Free),
    ("rebase.rebasemerges", BoolOr(&["rebase-cousins", "no-rebase-cousins"]), Free),
    ("commit.verbose", BoolOrInt, Free), ("commit.status", Bool, Free),
    ("commit.cleanup", Words(&["strip", "whitespace", "verbatim", "scissors", "default"]), Free),
    ("checkout.guess", Bool, Free), ("checkout.workers", Int, Free), ("checkout.thresholdforparallelism", Int, Free),
    ("worktree.guessremote", Bool, Free), ("worktree.userelativepaths", Bool, Free),
    ("stash.showpatch", Bool, Free), ("stash.showstat", Bool, Free), ("stash.showincludeuntracked", Bool, Free),
    ("apply.whitespace", Words(&["nowarn", "warn", "fix", "error", "error-all"]), Free),
    ("apply.ignorewhitespace", Words(&["no", "none", "never", "false", "change"]), Free),
    ("am.keepcr", Bool, Free), ("am.threeway", Bool, Free), ("am.messageid", Bool, Free),
    // What is shown, and how.
    ("advice.*", Bool, Free), ("color.*", Plain, Free), ("color.*.*", Plain, Free), ("column.*", Plain, Free),
    ("diff.algorithm", Words(&["default", "myers", "minimal", "patience", "histogram"]), Free),
    ("diff.mnemonicprefix", Bool, Free), ("diff.noprefix", Bool, Free), ("diff.renames", BoolOr(&["copies", "copy"]), Free),
    ("diff.renamelimit", Int, Free), ("diff.context", Int, Free), ("diff.interhunkcontext", Int, Free),
    ("diff.colormoved", Plain, Free), ("diff.colormovedws", Plain, Free), ("diff.wserrorhighlight", Plain, Free),
    ("diff.submodule", Words(&["short", "log", "diff"]), Free), ("diff.statgraphwidth", Int, Free),
    ("diff.statnamewidth", Int, Free), ("diff.indentheuristic", Bool, Free), ("diff.suppressblankempty", Bool, Free),
    ("diff.ignoresubmodules", Words(&["none", "untracked", "dirty", "all"]), Free), ("diff.dirstat", Plain, Free),
    ("diff.relative", Bool, Free), ("diff.autorefreshindex", Bool, Free), ("diff.*.binary", Bool, Free),
    ("status.short", Bool, Free), ("status.branch", Bool, Free), ("status.showstash", Bool, Free),
    ("status.showuntrackedfiles", BoolOr(&["no", "normal", "all"]), Free), ("status.relativepaths", Bool, Free),
    ("status.renames", BoolOr(&["copies", "copy"]), Free), ("status.renamelimit", Int, Free),
    ("status.aheadbehind", Bool, Free), ("status.displaycommentprefix", Bool, Free),
    ("log.abbrevcommit", Bool, Free), ("log.decorate", BoolOr(&["short", "full", "auto"]), Free),
    ("log.follow", Bool, Free), ("log.mailmap", Bool, Free), ("log.showroot", Bool, Free),
    ("log.date", Words(&["relative", "local", "default", "iso", "iso8601", "iso-strict", "rfc", "rfc2822", "short", "raw",
        "human", "unix", "iso-local", "short-local", "default-local", "relative-local"]), Free),
    ("blame.ignorerevsfile", Below, Free), ("blame.markunblamablelines", Bool, Free),
    ("blame.markignoredlines", Bool, Free), ("blame.showroot", Bool, Free), ("blame.blankboundary", Bool, Free),
    ("grep.linenumber", Bool, Free), ("grep.column", Bool, Free), ("grep.extendedregexp", Bool, Free),
    ("grep.patterntype", Words(&["default", "basic", "extended", "fixed", "perl"]), Free), ("grep.threads", Int, Free),
    ("grep.fullname", Bool, Free), ("tag.sort", Plain, Free), ("interactive.singlekey", Bool, Free),
    // git lfs notes these about the repository and each server; its filters and transfers are not here.
    ("lfs.repositoryformatversion", Int, Free), ("lfs.*.locksverify", Bool, Free),
    ("lfs.*.access", Words(&["none", "basic", "private"]), Free),
];

/// The rule for a variable; `None` is for the ones that may not be touched.
pub(super) fn rule(entry: &Entry) -> Option<(Values, Removal)> {
    TABLE
        .iter()
        .find(|(pattern, ..)| matches(pattern, entry))
        .map(|&(_, values, removal)| (values, removal))
}

/// `git_parse_maybe_bool`, without the numbers other than 0 and 1.
pub(super) fn is_bool(value: Option<&[u8]>) -> bool {
    let words: [&[u8]; 9] = [b"true", b"yes", b"on", b"1", b"false", b"no", b"off", b"0", b""];
    value.is_none_or(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word)))
}

fn is_int(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let digits = match digits.split_last() {
        Some((unit, rest)) if b"kKmMgG".contains(unit) => rest,
        _ => digits,
    };
    (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
}

fn is_word(value: Option<&[u8]>, words: &[&str]) -> bool {
    value.is_some_and(|value| words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes())))
}

/// Whether git takes the value for true.
pub(super) fn is_true(value: Option<&[u8]>) -> bool {
    value.is_none() || is_word(value, &["true", "yes", "on", "1"])
}

/// Whether a value is harmless by its text alone. The kinds that need to know more are judged where that is known.
pub(super) fn is_harmless(values: Values, value: Option<&[u8]>) -> bool {
    let text = value.unwrap_or_default();
    match values {
        Bool => is_bool(value),
        Int => is_int(text),
        Words(words) => is_word(value, words),
        BoolOr(words) => is_bool(value) || is_word(value, words),
        IntOr(words) => is_int(text) || is_word(value, words),
        BoolOrInt => is_bool(value) || is_int(text),
        Text => value.is_some() && text.len() <= 1024 && !text.iter().any(u8::is_ascii_control),
        Lines => {
            value.is_some()
                && text.len() <= 1 << 16
                && !text.iter().any(|b| b.is_ascii_control() && !b"\n\t".contains(b))
        }
        Plain => {
            text.len() <= 256
                && text
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b" #,.:=_/-".contains(b))
        }
        Below => {
            !text.is_empty()
                && text.iter().all(|b| b.is_ascii_alphanumeric() || b"._/-".contains(b))
                && !b"/-".contains(&text[0])
                && !text
                    .split(|&b| b == b'/')
                    .any(|part| part == b".." || part.eq_ignore_ascii_case(b".git"))
        }
        Reference => is_reference(text),
        Bare => is_bool(value),
        Shared => {
            let octal = text.len() <= 4 && text.starts_with(b"0") && text.iter().all(|b| (b'0'..=b'7').contains(b));
            is_bool(value) || is_word(value, &["umask", "group", "all", "world", "everybody", "2"]) || octal
        }
        Promisor | Mirror => is_true(value),
        Refspec | Remote | PushRemote | PromisorRemote | Address | Worktree => value.is_some() && !text.is_empty(),
    }
}

/// `refs/...` with the characters a reference may have, and `*`.
fn is_reference(text: &[u8]) -> bool {
    text.starts_with(b"refs/")
        && text.len() <= 1024
        && !text.iter().any(|b| b.is_ascii_control() || b" ~^:?[\\".contains(b))
        && !text.windows(2).any(|pair| pair == b"..")
}

/// Whether a refspec fetches references into places where fetched references belong. A remote that fetched nothing
/// before may become a mirror, which fetches into any place.
pub(super) fn is_refspec(text: &[u8], mirror: bool) -> bool {
    if let Some(except) = text.strip_prefix(b"^") {
        return is_reference(except);
    }
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let (from, to) = match text.iter().position(|&b| b == b':') {
        Some(colon) => (&text[..colon], &text[colon + 1..]),
        None => (text, &b""[..]),
    };
    let places: [&[u8]; 6] = [
        b"refs/remotes/",
        b"refs/tags/",
        b"refs/notes/",
        b"refs/pull/",
        b"refs/merge-requests/",
        b"refs/prefetch/",
    ];
    (from == b"HEAD" || is_reference(from))
        && (to.is_empty() || is_reference(to) && (mirror || places.iter().any(|place| to.starts_with(place))))
}

/// A remote's name as `git remote add` makes it. `git fetch --all` hands it to another git as an argument, so that it
/// must be no option; and git takes a name for a path or an address where it looks like one.
pub(super) fn is_remote_name(name: &[u8]) -> bool {
    let first_is_good = name.first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    first_is_good
        && name.len() <= 255
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"._/+-".contains(b))
        && !name
            .split(|&b| b == b'/')
            .any(|part| part.is_empty() || part.starts_with(b"."))
}

/// A branch's or submodule's name: neither an option nor a way out of `.git/modules`.
pub(super) fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 1024
        && !b"-/".contains(&name[0])
        && !name.iter().any(|b| b.is_ascii_control() || *b == b'\\')
        && !name.split(|&b| b == b'/').any(|part| part == b"..")
}
