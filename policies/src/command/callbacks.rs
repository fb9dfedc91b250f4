//! Builtins of bash's that are given a command for later, `ip` and `make`: what they are told to run on the line itself.

use super::options::Options;
use super::read::{Context, Input, Reading};
use super::unwrap::{assigned, is_stream};
use super::word::Word;

impl Reading {
    pub(super) fn mapfile(&mut self, context: &Context, name: &str, args: &[Word]) {
        const MAPFILE: Options = Options {
            short: "d:n:O:s:tu:C:c:",
            long: &[],
        };
        self.builtin_names(context, name, args);
        let Some(parsed) = self.options(name, &MAPFILE, args) else {
            return;
        };
        if let Some(word) = args.get(parsed.operand) {
            self.sets_array(context, name, word);
        }
        // It calls that with what it read.
        if parsed.has(&["C"]) {
            self.values.hold_anything("@");
        }
        if let Some(callback) = parsed.value(&["C"]).cloned() {
            self.callback(context, &format!("{name} -C"), &callback);
        }
    }

    /// The builtins of completion run commands, and expand words once more.
    pub(super) fn completion(&mut self, context: &Context, name: &str, args: &[Word]) {
        const COMPLETION: Options = Options {
            short: "abcdefgjksuvpr DEIo:A:G:W:F:C:X:P:S:V:",
            long: &[],
        };
        let Some(parsed) = self.options(name, &COMPLETION, args) else {
            return;
        };
        for (option, value) in &parsed.options {
            let Some(value) = value else { continue };
            match option.as_str() {
                "C" => self.callback(context, &format!("{name} -C"), value),
                "W" => match value.text() {
                    Some(text) => drop(self.substitutions(&context.inside(name), text)),
                    None => self.cannot(name, "what is expanded once more is not known before it runs"),
                },
                _ => {}
            }
        }
    }

    /// A text that this same shell runs.
    fn callback(&mut self, context: &Context, via: &str, word: &Word) {
        match word.text() {
            Some(text) => self.script(&context.inside(via), text),
            None => self.cannot(via, "what it runs is not known before it runs"),
        }
    }

    /// `ip netns exec NAME command` and `ip vrf exec NAME command`; `ip` takes every abbreviation.
    pub(super) fn ip(&mut self, context: &Context, args: &[Word]) {
        let is = |word: &Word, name: &str| {
            word.text()
                .is_some_and(|text| !text.is_empty() && name.starts_with(text))
        };
        let first = args
            .iter()
            .position(|word| word.bytes().is_none_or(|bytes| !bytes.starts_with(b"-")));
        if args.iter().any(|word| {
            word.bytes()
                .is_some_and(|bytes| bytes.starts_with(b"-b") || bytes.starts_with(b"-B"))
        }) {
            self.cannot("ip -batch", "commands of `ip` that are read from elsewhere");
        }
        let Some(at) = args.iter().position(|word| is(word, "exec")) else {
            return;
        };
        let object = |word: &Word| is(word, "netns") || is(word, "vrf") || word.bytes().is_none();
        if first.is_none_or(|first| first > at) || !args[..at].iter().any(object) {
            return;
        }
        let all = args[..at]
            .iter()
            .any(|word| word.bytes().is_some_and(|bytes| bytes.starts_with(b"-a")));
        let words = args.get(at + 2 - usize::from(all)..).unwrap_or_default();
        if words.is_empty() {
            return;
        }
        self.command(
            &context.inside("ip netns exec"),
            words.to_vec(),
            Vec::new(),
            Vec::new(),
            Input::Unknown,
        );
    }

    /// What a makefile does is not read, as what a script does; but what the line itself gives make to run is.
    pub(super) fn make(&mut self, name: &str, args: &[Word]) {
        for (at, word) in args.iter().enumerate() {
            if let Some((variable, value)) = assigned(word)
                && !variable.starts_with('-')
            {
                let variable = variable.trim_end_matches([':', '+', '?', '!', ' ']);
                let shell = matches!(variable, "SHELL" | ".SHELLFLAGS" | "MAKE" | "MAKEFLAGS" | "MAKEFILES");
                let runs = |bytes: &[u8]| bytes.iter().any(|byte| b"$`;|&\n".contains(byte));
                if shell || value.bytes().is_some_and(runs) {
                    self.cannot(
                        format!("{variable}=…"),
                        format!("a variable that makes `{name}` run what is not read"),
                    );
                }
            }
            let file = match word.text() {
                Some("-f" | "--file" | "--makefile") => args.get(at + 1).cloned(),
                Some(text) => ["--file=", "--makefile=", "-f"]
                    .iter()
                    .find_map(|option| text.strip_prefix(option))
                    .map(Word::known),
                None => None,
            };
            if let Some(file) = file
                && file.bytes().is_none_or(|bytes| bytes == b"-" || is_stream(bytes))
            {
                self.cannot(format!("{name} -f {}", file.show()), "a makefile that is no file");
            }
        }
    }
}
