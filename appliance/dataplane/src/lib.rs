pub mod namespace;
pub mod segment;
