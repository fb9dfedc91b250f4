//! Command-line options as `getopt_long` reads them, as far as finding the first operand needs it.

use super::word::Word;

/// The options of a program, up to its first operand.
#[derive(Clone, Copy)]
pub(super) struct Options {
    /// Letters; one followed by `:` takes a value, by `;` a value only if attached, as getopt has it for two colons.
    pub(super) short: &'static str,
    /// Names; one that ends with `=` takes a value, one that ends with `?` only one that is attached.
    pub(super) long: &'static [&'static str],
}

/// What stands before the first operand.
#[derive(Default)]
pub(super) struct Parsed {
    /// Options in order: `n` or `adjustment`, and the value.
    pub(super) options: Vec<(String, Option<Word>)>,
    /// Index of the first operand.
    pub(super) operand: usize,
}

impl Parsed {
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.options.iter().any(|(name, _)| names.contains(&name.as_str()))
    }

    /// The last value of one of these options.
    pub(super) fn value(&self, names: &[&str]) -> Option<&Word> {
        let found = self
            .options
            .iter()
            .rev()
            .find(|(name, _)| names.contains(&name.as_str()));
        found.and_then(|(_, value)| value.as_ref())
    }
}

impl Options {
    /// `Err`: the word that is not understood.
    pub(super) fn parse(&self, args: &[Word]) -> Result<Parsed, Word> {
        let mut parsed = Parsed::default();
        while let Some(word) = args.get(parsed.operand) {
            let Some(bytes) = word.bytes() else {
                // What begins as a path, or a text, is an operand whatever it becomes.
                return match word {
                    Word::Dynamic {
                        prefix, many: false, ..
                    } if prefix.first().is_some_and(|byte| *byte != b'-') => Ok(parsed),
                    _ => Err(word.clone()),
                };
            };
            if bytes == b"--" {
                parsed.operand += 1;
                return Ok(parsed);
            }
            if !bytes.starts_with(b"-") || bytes == b"-" {
                return Ok(parsed);
            }
            let text = word.text().ok_or_else(|| word.clone())?;
            parsed.operand += 1;
            match text.strip_prefix("--") {
                Some(long) => self.long(long, args, &mut parsed),
                None => self.short(&text[1..], args, &mut parsed),
            }
            .ok_or_else(|| word.clone())?;
        }
        Ok(parsed)
    }

    fn long(&self, long: &str, args: &[Word], parsed: &mut Parsed) -> Option<()> {
        let (name, attached) = match long.split_once('=') {
            Some((name, value)) => (name, Some(Word::known(value))),
            None => (long, None),
        };
        let known = self
            .long
            .iter()
            .find(|known| known.trim_end_matches(['=', '?']) == name)?;
        let value = match (known.chars().last(), attached) {
            (Some('='), None) => {
                parsed.operand += 1;
                Some(args.get(parsed.operand - 1)?.clone())
            }
            (Some('=' | '?'), attached) => attached,
            (_, Some(_)) => return None,
            (_, None) => None,
        };
        parsed.options.push((name.to_owned(), value));
        Some(())
    }

    fn short(&self, cluster: &str, args: &[Word], parsed: &mut Parsed) -> Option<()> {
        for (at, letter) in cluster.char_indices() {
            let known = self.short.find(letter).filter(|_| !matches!(letter, ':' | ';'))?;
            let rest = &cluster[at + letter.len_utf8()..];
            let kind = self.short[known + letter.len_utf8()..].chars().next();
            let value = match kind {
                Some(':') if rest.is_empty() => {
                    parsed.operand += 1;
                    Some(args.get(parsed.operand - 1)?.clone())
                }
                Some(':') => Some(Word::known(rest)),
                Some(';') if !rest.is_empty() => Some(Word::known(rest)),
                _ => None,
            };
            let takes_rest = matches!(kind, Some(':' | ';'));
            parsed.options.push((letter.to_string(), value));
            if takes_rest {
                break;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Options = Options {
        short: "k:s:vi;",
        long: &["kill-after=", "foreground", "color?"],
    };

    fn operand(args: &str) -> Option<usize> {
        let args: Vec<Word> = args.split_whitespace().map(Word::known).collect();
        TIMEOUT.parse(&args).ok().map(|parsed| parsed.operand)
    }

    #[test]
    fn the_first_operand_is_found_behind_options_with_values() {
        assert_eq!(operand("5 rm"), Some(0));
        assert_eq!(operand("-k 5 10 rm"), Some(2));
        assert_eq!(operand("-k5 10 rm"), Some(1));
        assert_eq!(operand("-vk 5 10 rm"), Some(2));
        assert_eq!(operand("-vi 5 10"), Some(1));
        assert_eq!(operand("--kill-after 5 10"), Some(2));
        assert_eq!(operand("--kill-after=5 --foreground --color 10"), Some(3));
        assert_eq!(operand("-v -- -x"), Some(2));
    }

    #[test]
    fn what_is_not_known_is_not_passed_over() {
        for args in ["-z", "--kill", "--foreground=yes", "-k", "--kill-after"] {
            assert_eq!(operand(args), None, "{args}");
        }
        assert!(TIMEOUT.parse(&[Word::anything()]).is_err());
    }
}
