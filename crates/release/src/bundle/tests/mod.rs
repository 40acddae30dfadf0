//! Packages as they must be, and every way in which one must not be.

mod round_trip;
