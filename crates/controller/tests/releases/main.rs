//! Release repositories from the first key to a host that takes a package.

mod cli;
mod crash;
mod evil;
mod keys;
mod publishing;
mod serving;
mod support;
mod transfer;
