//! Builtins of bash's that set variables, or take them for names: what they evaluate.

use super::options::Options;
use super::read::{Context, Reading};
use super::unwrap::assigned;
use super::values::Mode;
use super::word::Word;

impl Reading {
    /// What a builtin evaluates of its arguments, and the variables that it gives values which are not known.
    pub(super) fn builtin_evaluates(&mut self, context: &Context, name: &str, args: &[Word]) {
        match name {
            "let" => {
                for word in args {
                    if let Some(text) = word.text() {
                        self.look_at_arithmetic(text);
                    }
                    self.evaluates_word(context, word, Mode::Arithmetic);
                }
            }
            "test" | "[" => self.test_evaluates(context, args),
            "unset" => {
                for word in args {
                    self.evaluates_word(context, word, Mode::Name);
                    self.values
                        .unset(word.text().map(|text| text.split('[').next().unwrap_or(text)));
                }
            }
            "printf" => self.printf_sets(context, args),
            "read" => self.read_sets(context, args),
            "getopts" => {
                if let Some(word) = args.iter().filter(|word| word.bytes() != Some(b"--")).nth(1) {
                    self.sets_named(context, name, word);
                }
            }
            "wait" => {
                for (at, word) in args.iter().enumerate() {
                    match word.text() {
                        Some("-p" | "-np" | "-fp" | "-nfp" | "-fnp") => {
                            if let Some(word) = args.get(at + 1) {
                                self.sets_named(context, name, word);
                            }
                        }
                        Some(_) => {}
                        None => self.evaluates_word(context, word, Mode::Option),
                    }
                }
            }
            _ => {}
        }
    }

    /// `test` takes what follows `-v` for the name of a variable, also where both come out of one word that is split.
    fn test_evaluates(&mut self, context: &Context, args: &[Word]) {
        const BINARY: &[&str] = &[
            "=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef", "-a", "-o", "=~",
        ];
        for (at, word) in args.iter().enumerate() {
            let split = matches!(word, Word::Dynamic { prefix, suffix, many: true, .. } if prefix.is_empty() && suffix.is_empty());
            if split {
                self.evaluates_word(context, word, Mode::Name);
            }
            let Some(next) = args.get(at + 1) else { continue };
            let begins = at == 0 || matches!(args[at - 1].text(), Some("!" | "(" | "-a" | "-o"));
            let option = match word.text() {
                Some(text) => text == "-v",
                None => {
                    begins
                        && !next
                            .text()
                            .is_some_and(|next| BINARY.contains(&next) || matches!(next, "]" | ")"))
                }
            };
            if option {
                self.evaluates_word(context, next, Mode::Name);
            }
        }
    }

    fn printf_sets(&mut self, context: &Context, args: &[Word]) {
        let Some(first) = args.first() else { return };
        match (first, first.text()) {
            (_, Some("-v")) => {
                if let Some(word) = args.get(1) {
                    self.sets_named(context, "printf -v", word);
                }
            }
            (_, Some(text)) => {
                if let Some(name) = text.strip_prefix("-v") {
                    self.sets_named(context, "printf -v", &Word::known(name));
                }
            }
            (Word::Dynamic { prefix, .. }, None) if prefix.is_empty() => {
                self.evaluates_word(context, first, Mode::Option);
            }
            (Word::Dynamic { prefix, .. }, None) if prefix.starts_with(b"-") => {
                self.cannot(first.show(), "which variable `printf` sets is not known before it runs");
            }
            _ => {}
        }
    }

    fn read_sets(&mut self, context: &Context, args: &[Word]) {
        const READ: Options = Options {
            short: "eErsa:d:i:n:N:p:t:u:",
            long: &[],
        };
        let Ok(parsed) = READ.parse(args) else {
            // An option, or the name of a variable.
            for word in args
                .iter()
                .filter(|word| word.text().is_none_or(|text| !text.starts_with('-')))
            {
                self.sets_named(context, "read", word);
            }
            return;
        };
        if let Some(array) = parsed.value(&["a"]).cloned() {
            self.sets_array(context, "read -a", &array);
        }
        for word in &args[parsed.operand..] {
            self.sets_named(context, "read", word);
        }
    }

    pub(super) fn sets_array(&mut self, context: &Context, by: &str, word: &Word) {
        self.sets_named(context, by, word);
        if let Some(name) = word.text() {
            self.values.is_array(name);
        }
    }

    /// A variable that a builtin gives a value which is not known.
    fn sets_named(&mut self, context: &Context, by: &str, word: &Word) {
        self.evaluates_word(context, word, Mode::Name);
        let known = match word {
            Word::Known(bytes) => Some(bytes.as_slice()),
            Word::Dynamic { prefix, .. } => Some(prefix.as_slice()).filter(|prefix| prefix.contains(&b'[')),
        };
        let Some(known) = known else {
            self.values.anything();
            self.cannot(
                word.show(),
                format!("which variable `{by}` sets is not known before it runs"),
            );
            return;
        };
        let known = String::from_utf8_lossy(known);
        let name = known.split('[').next().unwrap_or_default();
        self.values.hold_anything(name);
        self.startup |= super::variables::STARTUP.contains(&name);
        self.look_at_name(name);
    }

    /// What the builtins that declare make of variables.
    pub(super) fn declares(&mut self, args: &[Word]) {
        let mut letters = String::new();
        for word in args {
            if let Some(options) = word.text().and_then(|text| text.strip_prefix(['-', '+'])) {
                letters.push_str(options);
            } else if let Some((name, value)) = assigned(word) {
                let name = name.split(['[', '+']).next().unwrap_or_default();
                self.values.declare(&letters, name, Some(&value.origin()));
            } else if let Some(name) = word.text() {
                self.values.declare(&letters, name, None);
            }
        }
    }
}
