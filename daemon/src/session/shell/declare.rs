//! What bash's `declare -p` prints, read back.
//!
//! A reader for exactly that: `declare -ATTRIBUTES NAME[=VALUE]`, a line each, values in double quotes or in `$'...'`, arrays of such in
//! parentheses. Whatever a shell would expand is not read: a list may come from anybody who can write to the descriptor.

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared<'a> {
    attributes: &'a [u8],
    pub name: &'a [u8],
    value: Option<Value>,
    /// The whole entry with its end of line.
    pub raw: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Scalar(Vec<u8>),
    Array(Vec<Vec<u8>>),
}

impl Declared<'_> {
    /// Whether it has an attribute.
    pub fn has(&self, attribute: u8) -> bool {
        self.attributes.contains(&attribute)
    }

    /// Whether it has none.
    pub fn is_plain(&self) -> bool {
        self.attributes == b"-"
    }

    /// Its value, if it is a variable with one value of its own.
    pub fn scalar(&self) -> Option<Vec<u8>> {
        match &self.value {
            Some(Value::Scalar(value)) if !self.has(b'n') => Some(value.clone()),
            _ => None,
        }
    }

    /// Whether each of its values is a number in digits.
    pub fn is_numbers(&self) -> bool {
        let number = |value: &[u8]| {
            let digits = value.strip_prefix(b"-").unwrap_or(value);
            digits.len() < 20 && digits.iter().all(u8::is_ascii_digit)
        };
        match &self.value {
            None => true,
            Some(Value::Scalar(value)) => number(value),
            Some(Value::Array(values)) => values.iter().all(|value| number(value)),
        }
    }
}

/// Reads the first entry, and gives what follows it.
pub(super) fn read(text: &[u8]) -> Option<(Declared<'_>, &[u8])> {
    let rest = text.strip_prefix(b"declare -")?;
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let (attributes, rest) = (&rest[..space], &rest[space + 1..]);
    if !attributes
        .iter()
        .all(|byte| byte.is_ascii_alphabetic() || *byte == b'-')
    {
        return None;
    }
    let end = rest.iter().position(|byte| matches!(byte, b'=' | b'\n'))?;
    let (name, rest) = (&rest[..end], &rest[end..]);
    if !super::is_name(name) {
        return None;
    }
    let (value, rest) = match rest.strip_prefix(b"=") {
        None => (None, rest),
        Some(rest) => match rest.strip_prefix(b"(") {
            Some(rest) => array(rest).map(|(values, rest)| (Some(Value::Array(values)), rest))?,
            None => quoted(rest).map(|(value, rest)| (Some(Value::Scalar(value)), rest))?,
        },
    };
    let rest = rest.strip_prefix(b"\n")?;
    let raw = &text[..text.len() - rest.len()];
    let declared = Declared {
        attributes,
        name,
        value,
        raw,
    };
    Some((declared, rest))
}

/// The elements of an array, from behind its parenthesis on.
fn array(mut rest: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let mut values = Vec::new();
    loop {
        rest = rest.strip_prefix(b" ").unwrap_or(rest);
        if let Some(rest) = rest.strip_prefix(b")") {
            return Some((values, rest));
        }
        rest = rest.strip_prefix(b"[")?;
        rest = match rest.first()? {
            b'"' | b'$' => quoted(rest)?.1,
            _ => {
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.,:/@%+-".contains(byte);
                let end = rest.iter().position(|byte| !plain(byte))?;
                &rest[end..]
            }
        };
        let (value, next) = quoted(rest.strip_prefix(b"]=")?)?;
        values.push(value);
        rest = next;
    }
}

/// A value in double quotes or in `$'...'`.
fn quoted(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    if let Some(mut rest) = text.strip_prefix(b"\"") {
        loop {
            let (byte, next) = rest.split_first()?;
            rest = next;
            match byte {
                b'"' => return Some((value, rest)),
                b'$' | b'`' => return None,
                b'\\' => {
                    let (escaped, next) = rest.split_first()?;
                    if !b"\"\\$`".contains(escaped) {
                        return None;
                    }
                    value.push(*escaped);
                    rest = next;
                }
                byte => value.push(*byte),
            }
        }
    }
    let mut rest = text.strip_prefix(b"$'")?;
    loop {
        let (byte, next) = rest.split_first()?;
        rest = next;
        match byte {
            b'\'' => return Some((value, rest)),
            b'\\' => {
                let (escaped, next) = rest.split_first()?;
                rest = next;
                value.push(match escaped {
                    b'a' => 7,
                    b'b' => 8,
                    b'e' | b'E' => 27,
                    b'f' => 12,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 11,
                    b'\\' | b'\'' | b'"' | b'?' => *escaped,
                    b'0'..=b'7' => {
                        let digits = rest
                            .iter()
                            .take(2)
                            .take_while(|byte| matches!(byte, b'0'..=b'7'))
                            .count();
                        let all = std::iter::once(escaped).chain(&rest[..digits]);
                        let octal = all.fold(0u32, |octal, digit| octal * 8 + u32::from(digit - b'0'));
                        rest = &rest[digits..];
                        u8::try_from(octal).ok().filter(|byte| *byte != 0)?
                    }
                    _ => return None,
                });
            }
            byte => value.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> Option<Vec<u8>> {
        let (declared, rest) = read(text.as_bytes())?;
        assert_eq!((declared.raw, rest), (text.as_bytes(), &b""[..]));
        declared.scalar()
    }

    #[test]
    fn what_bash_prints_is_read_as_it_was() {
        assert_eq!(
            scalar("declare -- a=\"b \\\" \\$ \\` \\\\ '\"\n").unwrap(),
            b"b \" $ ` \\ '"
        );
        assert_eq!(
            scalar("declare -x a=$'\\E\\n\\001\\377\\'\\\\'\n").unwrap(),
            b"\x1b\n\x01\xff'\\"
        );
        let text =
            b"declare -ar list=([0]=\"1\" [1]=\"2 3\")\ndeclare -A m=([k]=\"v\" [\"a b\"]=$'\\n' )\ndeclare -i n\n";
        let (list, rest) = read(text).unwrap();
        assert!(list.has(b'r') && list.scalar().is_none());
        let (map, rest) = read(rest).unwrap();
        assert_eq!(map.value, Some(Value::Array(vec![b"v".to_vec(), b"\n".to_vec()])));
        let (number, rest) = read(rest).unwrap();
        assert_eq!(
            (number.value.as_ref(), number.is_numbers(), rest),
            (None, true, &b""[..])
        );
    }

    #[test]
    fn what_a_shell_would_expand_is_not_read() {
        for text in [
            "declare -- a=\"$(id)\"\n",
            "declare -- a=\"`id`\"\n",
            "declare -- a=b\n",
            "declare -- a=\"b\"; id\n",
            "declare -- a=\"b\"",
            "declare -- a[0]=\"b\"\n",
            "declare -a a=([$(id)]=\"b\")\n",
            "declare -a a=([0]=$(id))\n",
            "declare -$(id) a=\"b\"\n",
            "declare -- a=$'\\x41'\n",
            "id\n",
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text}");
        }
        let hidden = read(b"declare -i a=\"b[\\$(id)]\"\n").unwrap().0;
        assert!(!hidden.is_numbers());
    }
}
