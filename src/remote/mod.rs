//! The client of the controller.
