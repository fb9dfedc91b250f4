//! The words of the language and the types they stand for.

/// Gives a type of words its names. The order is the order of strictness, the strictest first.
macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $type {
            /// Every one, the strictest first where there is an order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The words of policy files for them.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word that a policy file uses.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// What a word stands for.
            pub(crate) fn of(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use words;
