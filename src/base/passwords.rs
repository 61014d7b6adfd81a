//! The passwords that clients may give, as the operator has listed them.
//!
//! How long a comparison takes says nothing about them: each is kept in a field of one length for all, with its own
//! length at the end, and what a client gives is compared with every one of them to the last bit.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

/// Bytes of the longest password.
pub const PASSWORD_BYTES_MAX: usize = 512;
/// Passwords that may be valid at a time.
pub const PASSWORDS_MAX: usize = 16;

const WORD: usize = size_of::<u64>();
/// The words of the longest password, and one for the length.
const WORDS: usize = PASSWORD_BYTES_MAX / WORD + 1;

const _: () = assert!(PASSWORD_BYTES_MAX.is_multiple_of(WORD), "a password fills whole words");

type Field = [u64; WORDS];

/// One password or several, each as good as the others.
pub struct Passwords(Vec<Field>);

/// Why a list of passwords cannot be used. Lines count from 1; what is in them is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordsError {
    /// there is no password in it: write one in a line
    Empty,
    /// there are more than 16 passwords in it: keep those that are in use
    TooMany,
    /// the password in line {0} is longer than 512 bytes: choose a shorter one
    TooLong(usize),
    /// line {0} begins or ends with a space or has a control character, which not every client could send: …
    Unfit(usize),
}

impl fmt::Display for PasswordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no password in it: write one in a line"),
            Self::TooMany => {
                write!(f, "there are more than {PASSWORDS_MAX} passwords in it: keep those that are in use")
            }
            Self::TooLong(line) => {
                write!(f, "the password in line {line} is longer than {PASSWORD_BYTES_MAX} bytes: choose a shorter one")
            }
            Self::Unfit(line) => write!(
                f,
                "line {line} begins or ends with a space or has a control character, which not every client could \
                 send: choose another password"
            ),
        }
    }
}

impl std::error::Error for PasswordsError {}

/// The passwords themselves are never shown.
impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({})", self.0.len())
    }
}

impl Passwords {
    /// Bytes of the longest list that can be one, line ends included.
    pub const TEXT_BYTES_MAX: usize = 64 << 10;

    /// Reads a list of one password in a line. Line ends and empty lines do not count.
    ///
    /// # Errors
    /// There are none, too many, or one that cannot be given by every client.
    pub fn parse(text: &[u8]) -> Result<Self, PasswordsError> {
        let mut fields = Vec::new();
        for (i, line) in text.split(|&b| b == b'\n').enumerate() {
            let password = line.strip_suffix(b"\r").unwrap_or(line);
            if password.is_empty() {
                continue;
            }
            if password.trim_ascii() != password || password.iter().any(u8::is_ascii_control) {
                return Err(PasswordsError::Unfit(i + 1));
            }
            if fields.len() == PASSWORDS_MAX {
                return Err(PasswordsError::TooMany);
            }
            fields.push(field(password).ok_or(PasswordsError::TooLong(i + 1))?);
        }
        if fields.is_empty() { Err(PasswordsError::Empty) } else { Ok(Self(fields)) }
    }

    /// Whether `given` is one of them.
    pub fn accept(&self, given: &[u8]) -> bool {
        let Some(given) = field(given) else { return false };
        let any = self.0.iter().fold(Choice::from(0), |any, own| any | own.ct_eq(&given));
        any.into()
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty, reason = "there is always one")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// A password in a field; `None` if it is too long for one.
fn field(password: &[u8]) -> Option<Field> {
    let mut bytes = [0; PASSWORD_BYTES_MAX];
    bytes.get_mut(..password.len())?.copy_from_slice(password);
    let mut field = [password.len() as u64; WORDS];
    for (word, chunk) in field.iter_mut().zip(bytes.as_chunks::<WORD>().0) {
        *word = u64::from_ne_bytes(*chunk);
    }
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_password() {
        let passwords = Passwords::parse(b"\nfirst\r\n\r\nsecond one\n\xc3\xa4\n\n").unwrap();
        assert_eq!(passwords.len(), 3);
        for right in [&b"first"[..], b"second one", "ä".as_bytes()] {
            assert!(passwords.accept(right), "{right:?}");
        }
        for wrong in [&b""[..], b"firs", b"first\0", b"first\r", b"First", b"second", b"first\nsecond one", &[0; 513]] {
            assert!(!passwords.accept(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn the_longest_password_counts_to_its_last_byte() {
        let longest = [b'x'; PASSWORD_BYTES_MAX];
        let passwords = Passwords::parse(&longest).unwrap();
        assert!(passwords.accept(&longest));
        assert!(!passwords.accept(&longest[1..]));
        let mut other = longest;
        other[PASSWORD_BYTES_MAX - 1] ^= 0x80;
        assert!(!passwords.accept(&other));
    }

    #[test]
    fn what_no_client_could_give_is_refused_by_its_line() {
        let refusal = |text: &[u8]| Passwords::parse(text).unwrap_err();
        assert_eq!(refusal(b""), PasswordsError::Empty);
        assert_eq!(refusal(b"\r\n\n"), PasswordsError::Empty);
        assert_eq!(refusal(&b"x\n".repeat(PASSWORDS_MAX + 1)), PasswordsError::TooMany);
        assert_eq!(
            refusal(&[b"a\n".to_vec(), vec![b'x'; PASSWORD_BYTES_MAX + 1]].concat()),
            PasswordsError::TooLong(2)
        );
        for unfit in [&b"a\n b"[..], b"a\nb ", b"a\nb\tc", b"a\nb\r\r", b"a\nb\0"] {
            assert_eq!(refusal(unfit), PasswordsError::Unfit(2), "{unfit:?}");
        }
        assert!(Passwords::parse(&b"x\n".repeat(PASSWORDS_MAX)).is_ok());
    }

    #[test]
    fn passwords_are_shown_nowhere() {
        let passwords = Passwords::parse(b"open sesame").unwrap();
        assert_eq!(format!("{passwords:?}"), "Passwords(1)");
        for error in [PasswordsError::TooLong(3), PasswordsError::Unfit(3)] {
            assert!(error.to_string().contains("line 3"), "{error}");
        }
    }
}
