//! The layers of configuration, read from where they are: the image's file (or the files given),
//! then what was provisioned.
//!
//! For: the I/O that `weir-policy` does not do, and joining it with certificates (`weir-pki`) and
//! rules (`weir-inspect`). Not for: what keys mean. Fails whole, with a line for each error:
//! nothing of a bad configuration is used.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use weir_api::engine::ToEngine;
use weir_api::{frame, paths};
use weir_inspect::rules::{RuleSet, RuleText};
use weir_policy::layers::{Layer, Syntax};
use weir_policy::located::MAX_TEXT;
use weir_policy::material::{Files, Material, Rules};
use weir_policy::snapshot::{CertifiedKey, Snapshot};
use weir_policy::{Configuration, LocatedError};
use weir_provisioning::{Provisioned, Weir};

use crate::accounts::Accounts;

/// Where configuration comes from.
pub struct Sources {
    files: Vec<PathBuf>,
    provisioned: PathBuf,
}

/// A valid configuration and what was provisioned beside it.
#[derive(Debug)]
pub struct Loaded {
    configuration: Configuration,
    /// For `show configuration`, secrets left out.
    pub document: String,
    pub hostname: Option<String>,
    pub accounts: Accounts,
    pub warnings: Vec<String>,
}

impl Loaded {
    pub fn compile(&self, generation: u64, authority: Option<CertifiedKey>) -> Snapshot {
        self.configuration.compile(generation, authority)
    }
}

impl Sources {
    /// Without `files`, the image's own, which may be missing.
    pub fn new(files: &[PathBuf], provisioned: &Path) -> Self {
        let mut files = files.to_vec();
        let image = Path::new(paths::IMAGE_CONFIGURATION);
        if files.is_empty() && image.exists() {
            files.push(image.to_owned());
        }
        Self { files, provisioned: provisioned.to_owned() }
    }

    /// Reads all layers. The errors are lines for people.
    pub fn load(&self) -> Result<Loaded, Vec<String>> {
        let provisioned = read_provisioned(&self.provisioned).map_err(|error| vec![error])?;
        let configuration = self
            .configuration(provisioned.as_ref())
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let mut warnings: Vec<String> = provisioned
            .iter()
            .flat_map(|one| one.warnings.iter().map(ToString::to_string))
            .collect();
        warnings.extend(configuration.warnings().iter().map(ToString::to_string));
        Ok(Loaded {
            document: configuration.to_document(),
            configuration,
            hostname: provisioned.as_ref().and_then(|one| one.hostname.clone()),
            accounts: provisioned.as_ref().map(Accounts::provisioned).unwrap_or_default(),
            warnings,
        })
    }

    /// What init is to go by, where the configuration with this provisioned part is valid as a
    /// whole.
    pub fn at_boot(&self, provisioned: &Provisioned) -> Result<Configuration, Vec<LocatedError>> {
        self.configuration(Some(provisioned))
    }

    fn configuration(
        &self,
        provisioned: Option<&Provisioned>,
    ) -> Result<Configuration, Vec<LocatedError>> {
        let mut texts = Vec::new();
        for file in &self.files {
            texts.push((file.display().to_string(), read_text(file)?));
        }
        let mut layers: Vec<Layer<'_>> =
            texts.iter().map(|(name, text)| layer(name, text)).collect();
        let provisioned = provisioned.and_then(|one| one.weir.as_ref()).map(Weir::layer);
        layers.extend(provisioned);

        let material = Material { files: &Disk, certificates: &weir_pki::Pki, rules: &Honoured };
        let configuration = Configuration::load(&layers, material).map_err(|errors| {
            errors.into_iter().map(|error| in_section(error, &layers)).collect::<Vec<_>>()
        })?;
        let snapshot = configuration.compile(0, None);
        check_profiles(&snapshot)?;
        check_size(snapshot)?;
        Ok(configuration)
    }
}

/// What `weir-agent provision` left; `None` where it left nothing.
fn read_provisioned(path: &Path) -> Result<Option<Provisioned>, String> {
    let text = match fs::read(path) {
        Ok(text) => zeroize::Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| format!("{}: {error}", path.display()))
}

fn read_text(file: &Path) -> Result<String, Vec<LocatedError>> {
    let unreadable = |message: String| {
        vec![LocatedError {
            file: file.display().to_string(),
            line: None,
            key: String::new(),
            message,
        }]
    };
    let bytes = Disk
        .read(file, MAX_TEXT)
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|_| unreadable("is not UTF-8 text".into()))
}

/// YAML by the name's end, TOML else; YAML may have the `weir:` key that user-data has.
fn layer<'a>(name: &'a str, text: &'a str) -> Layer<'a> {
    if !name.ends_with(".yaml") && !name.ends_with(".yml") {
        return Layer { name, syntax: Syntax::Toml, text, section: None };
    }
    let sectioned = text.lines().any(|line| line.starts_with("weir:"));
    Layer { name, syntax: Syntax::Yaml, text, section: sectioned.then_some("weir") }
}

/// Names keys as they stand in the whole text: below `weir` in user-data.
fn in_section(mut error: LocatedError, layers: &[Layer<'_>]) -> LocatedError {
    let layer = layers.iter().find(|layer| layer.name == error.file);
    if let Some(section) = layer.and_then(|layer| layer.section)
        && !error.key.is_empty()
        && error.key != section
    {
        error.key = format!("{section}.{}", error.key);
    }
    error
}

/// Files that a configuration names, bounded.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path, bound: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(bound as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > bound {
            let message = format!("over {} MiB", bound >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(bytes)
    }
}

/// Rules that the engine honours.
struct Honoured;

impl Rules for Honoured {
    fn check(&self, rules: &str) -> Vec<(u32, String)> {
        let text = RuleText { origin: String::new(), text: rules.to_owned() };
        match RuleSet::parse(&[text]) {
            Ok(_) => Vec::new(),
            Err(errors) => errors
                .iter()
                .map(|error| {
                    let line = u32::try_from(error.line).unwrap_or(u32::MAX);
                    (line, error.problem.to_string())
                })
                .collect(),
        }
    }
}

/// What the untrusted CA and a larger generation may add to a snapshot.
const SPARE: usize = 64 << 10;

/// A snapshot goes to the engine in one frame; a larger one would never get there.
fn check_size(snapshot: Snapshot) -> Result<(), Vec<LocatedError>> {
    let error = |message| {
        let file = "the configuration as a whole".to_owned();
        vec![LocatedError { file, line: None, key: String::new(), message }]
    };
    let most = frame::MAX_FRAME - SPARE;
    match frame::length(&ToEngine::Snapshot(Box::new(snapshot))) {
        Ok(length) if length <= most => Ok(()),
        Ok(length) => Err(error(format!(
            "makes a policy of {length} bytes for the engine, which takes at most {most} ({} MiB): \
             shorten the lists of rules, reputation entries and certificates",
            most >> 20
        ))),
        Err(cause) => Err(error(format!("makes no policy for the engine: {cause}"))),
    }
}

/// What only shows where a profile's filters meet, such as one `sid` in two of them.
fn check_profiles(snapshot: &Snapshot) -> Result<(), Vec<LocatedError>> {
    for profile in &snapshot.profiles {
        let texts: Vec<RuleText> = profile
            .filters
            .iter()
            .filter_map(|index| snapshot.filters.get(*index))
            .map(|filter| RuleText { origin: filter.origin.clone(), text: filter.rules.clone() })
            .collect();
        if let Err(errors) = RuleSet::parse(&texts) {
            return Err(errors
                .iter()
                .map(|error| LocatedError {
                    file: format!("filters of profile {:?}", profile.name),
                    line: None,
                    key: String::new(),
                    message: error.to_string(),
                })
                .collect());
        }
    }
    Ok(())
}
