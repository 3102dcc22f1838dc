//! What a value should be when it arrives.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The traits that values need to be sent and compared.
pub trait Value: Serialize + DeserializeOwned + PartialEq + Debug + Clone + crate::Any + 'static {}

impl<T: Serialize + DeserializeOwned + PartialEq + Debug + Clone + crate::Any + 'static> Value for T {}

/// Returns what JSON gives back for `value`, if it can represent it.
///
/// # Errors
/// JSON's error.
pub fn by_json<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, String> {
    let bytes = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

/// Returns what CBOR gives back for `value`, if it can represent it.
///
/// # Errors
/// CBOR's error.
pub fn by_cbor<T: Serialize + DeserializeOwned>(value: &T) -> Result<T, String> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| error.to_string())?;
    ciborium::from_reader(&bytes[..]).map_err(|error| error.to_string())
}

/// Judges the result of sending `value`, and of receiving it if it was sent. Returns whether it
/// arrived.
///
/// # Errors
/// When a value arrives as another one, is accepted and lost, or is refused though JSON can
/// represent it.
pub fn judge<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    value: &T,
    sent: Result<(), String>,
    received: impl FnOnce() -> Result<T, String>,
) -> Result<bool, String> {
    let received = match sent {
        Ok(()) => received(),
        Err(refused) => {
            return match by_json(value) {
                Ok(json) => Err(format!("{value:?} was refused: {refused}\n  but JSON gives {json:?}")),
                Err(_) => Ok(false),
            };
        }
    };
    match received {
        Ok(received) if received == *value => Ok(true),
        Ok(received) => match by_json(value).or_else(|_| by_cbor(value)) {
            Ok(other) if other == received => Ok(true),
            other => Err(format!("{value:?}\n  arrived as {received:?}\n  JSON or CBOR: {other:?}")),
        },
        Err(lost) => Err(format!("{value:?} was accepted and lost: {lost}\n  JSON: {:?}", by_json(value))),
    }
}

/// Compares `arrived` with `value`.
///
/// # Errors
/// When it is neither equal nor what JSON, or else CBOR, gives back.
pub fn compare<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, arrived: T) -> Result<(), String> {
    judge(value, Ok(()), || Ok(arrived)).map(drop)
}
