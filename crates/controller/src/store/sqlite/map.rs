//! Between the database's texts and the program's types.

use std::str::FromStr;

use serde::de::DeserializeOwned;

use crate::clock;
use crate::rules::state::from_word;
use crate::store::StoreError;

/// A database error as the rest of the program knows it.
pub(super) fn database(error: sqlx::Error) -> StoreError {
    StoreError::Database(error.to_string())
}

/// A value with a text form; `column` is named when it has been tampered with.
pub(super) fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Impossible(column))
}

/// The same for a column that may be empty.
pub(super) fn parse_optional<T: FromStr>(
    column: &'static str,
    text: Option<&str>,
) -> Result<Option<T>, StoreError> {
    text.map(|text| parse(column, text)).transpose()
}

/// A stable word.
pub(super) fn enum_of<T: DeserializeOwned>(
    column: &'static str,
    word: &str,
) -> Result<T, StoreError> {
    from_word(word).ok_or(StoreError::Impossible(column))
}

/// An instant, in milliseconds since the Unix epoch.
pub(super) fn instant(column: &'static str, text: &str) -> Result<i64, StoreError> {
    clock::from_text(text).ok_or(StoreError::Impossible(column))
}

/// The same for a column that may be empty.
pub(super) fn instant_optional(
    column: &'static str,
    text: Option<&str>,
) -> Result<Option<i64>, StoreError> {
    text.map(|text| instant(column, text)).transpose()
}

/// A stored number of a smaller or unsigned type.
pub(super) fn number<T: TryFrom<i64>>(column: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::Impossible(column))
}

/// A counter as the database's signed integer; what does not fit stands as the greatest one.
pub(super) fn counter(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
