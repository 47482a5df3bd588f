//! What some of the server's keys choose among.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::quantity::Period;

/// The folder of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataDir(pub(crate) PathBuf);

/// When a blob counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DurabilityChoice {
    Immediate,
    Interval(Period),
    None,
}

/// Declares a choice among words, with its text form.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($variant),+ }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!(
                        concat!("{:?} is not ", $what, ": write one of", $(" ", $word),+),
                        text
                    )),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }
    };
}

words! {
    /// Which reads re-hash a blob.
    VerifyChoice: "a moment to verify" { Never = "never", First = "first", Always = "always" }
}

words! {
    /// Who may look after the store.
    MaintenanceChoice: "a group of callers" { Loopback = "loopback", Anyone = "anyone", Nobody = "nobody" }
}

words! {
    /// What becomes of action results that clients store.
    ActionUpdatesChoice: "a way to take action results" { Allow = "allow", Refuse = "refuse", Drop = "drop" }
}

words! {
    /// Whether clients need certificates.
    ClientAuthChoice: "a way to treat clients" { Optional = "optional", Required = "required" }
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl FromStr for FilePath {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(PathBuf::from(text)))
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl FromStr for DataDir {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(PathBuf::from(text)))
    }
}

impl fmt::Display for DataDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl FromStr for DurabilityChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "immediate" => Ok(Self::Immediate),
            "none" => Ok(Self::None),
            _ => text.parse().map(Self::Interval).map_err(|_| {
                format!("{text:?} is not a durability: write immediate, none, or a time like 100ms")
            }),
        }
    }
}

impl fmt::Display for DurabilityChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immediate => f.write_str("immediate"),
            Self::Interval(period) => period.fmt(f),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_list_their_choices() {
        let error = "sometimes".parse::<VerifyChoice>().unwrap_err();
        assert!(
            error.ends_with("write one of never first always"),
            "{error}"
        );
    }
}
