//! JSON as the channel has it: objects that are objects, hex that has one form, numbers that every language can hold.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// The largest integer that JavaScript holds exactly.
pub(super) const MOST: u64 = (1 << 53) - 1;

/// Reads an object. Serde's own readers take a list of the fields' values for one too.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_map(Object(std::marker::PhantomData))
}

/// The same where `null` and nothing are none.
pub(crate) fn object_or_none<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Option::<AnObject<T>>::deserialize(from).map(|object| object.map(|AnObject(value)| value))
}

/// Reads an integer that every language can hold.
pub(super) fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(from)?;
    if number <= MOST { Ok(number) } else { Err(D::Error::custom("integers are at most 2^53-1")) }
}

/// The same where `null` and nothing are none.
pub(super) fn integer_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Integer(u64);
    impl<'de> Deserialize<'de> for Integer {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            integer(from).map(Self)
        }
    }
    Option::<Integer>::deserialize(from).map(|number| number.map(|Integer(number)| number))
}

/// Reads a field for which `null` is as good as nothing.
pub(crate) fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// The same of a list of objects.
pub(crate) fn objects_or_none<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<T>>, D::Error> {
    Option::<Vec<AnObject<T>>>::deserialize(from).map(|list| list.map(AnObject::values))
}

/// A value that is read from an object.
pub(crate) struct AnObject<T>(pub(crate) T);

impl<T> AnObject<T> {
    /// What is in them.
    pub(crate) fn values(list: Vec<Self>) -> Vec<T> {
        list.into_iter().map(|Self(value)| value).collect()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for AnObject<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Self)
    }
}

struct Object<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Hex in lower case, behind `0x` or not as the field has it: a value has one way to be written.
pub(super) fn read_hex<const N: usize>(text: &str, prefix: &str) -> Option<[u8; N]> {
    let digits = text.strip_prefix(prefix)?;
    let lower = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    (lower && digits.len() == N.checked_mul(2)? && const_hex::decode_to_slice(digits, &mut bytes).is_ok())
        .then_some(bytes)
}
