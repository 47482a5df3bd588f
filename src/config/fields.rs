//! The keys that a table of `zako.toml` takes, as its type tells serde.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// The names of the fields that `T` is read from, in their order; none if it is no struct.
pub(super) fn of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Never succeeds: it is only asked, not read.
    let _ = T::deserialize(Asked(&mut fields));
    fields
}

/// Writes down what is asked for.
struct Asked<'a>(&'a mut &'static [&'static str]);

#[derive(Debug)]
struct NothingHere;

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = NothingHere;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, NothingHere> {
        Err(NothingHere)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, NothingHere> {
        *self.0 = fields;
        Err(NothingHere)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
        ignored_any
    }
}

impl Error for NothingHere {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self
    }
}

impl fmt::Display for NothingHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing is read here")
    }
}

impl std::error::Error for NothingHere {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientKeys;

    #[test]
    fn a_structs_fields_are_told() {
        assert_eq!(of::<ClientKeys>()[..2], ["server", "transport"]);
        assert_eq!(of::<String>(), [""; 0]);
    }
}
