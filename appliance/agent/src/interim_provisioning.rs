use weir_policy::{LocatedError, SecretBytes, layers::*};
#[derive(serde::Serialize, serde::Deserialize, Default)]
pub struct Provisioned {
    pub hostname: Option<String>,
    pub management: Option<weir_api::init::Management>,
    pub warnings: Vec<LocatedError>,
    pub weir: Option<Weir>,
    pub users: Vec<User>,
}
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Weir {
    pub text: String,
}
impl Weir {
    pub fn layer(&self) -> Layer<'_> {
        Layer { name: "user-data", syntax: Syntax::Yaml, text: &self.text, section: Some("weir") }
    }
}
#[derive(serde::Serialize, serde::Deserialize)]
pub struct User {
    pub name: String,
    pub hash: Option<SecretBytes>,
    pub role: String,
}
pub struct Seed;
pub fn find_seed(_d: Option<&std::path::Path>) -> Result<Option<Seed>, std::io::Error> {
    Ok(None)
}
pub fn parse(_s: &Seed) -> Result<Provisioned, Vec<LocatedError>> {
    Ok(Provisioned::default())
}
