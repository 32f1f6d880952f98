use super::*;

const DOCS: &str = include_str!("../../../docs/configuration.md");

/// Between these stands the generated table.
const BEGIN: &str = "<!-- keys -->\n";
const END: &str = "<!-- end of keys -->\n";

fn load(dir: &Path, flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Config::load(&Sources { file: None, flags }, dir.to_owned())
}

#[test]
fn every_key_is_described_and_the_description_is_in_the_docs() {
    let fields: Vec<String> = keys::flat(&Config::default()).into_keys().collect();
    let mut described: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
    described.sort_unstable();
    assert_eq!(fields, described);
    if std::env::var_os("POSTHORN_DOCS").is_some() {
        let (before, after) = (DOCS.split(BEGIN).next(), DOCS.split(END).nth(1));
        let (before, after) = (before.expect("a beginning"), after.expect("an end mark"));
        let text = format!("{before}{BEGIN}{}{END}{after}", documentation());
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md"), text)
            .expect("written");
        return;
    }
    let stale =
        "docs/configuration.md is stale: POSTHORN_DOCS=write cargo test -p posthorn-server --lib config";
    assert!(DOCS.contains(&format!("{BEGIN}{}{END}", documentation())), "{stale}");
}

#[test]
fn the_defaults_are_in_range() {
    let config = Config { data: "x".into(), ..Config::default() };
    config.check().expect("defaults");
    assert_eq!(config.policy(), StorePolicy::default());
    Config::for_tests().check().expect("test defaults");
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join(FILE_NAME), "listen = '0.0.0.0:1'\n[limits]\nidle_seconds = 30\n")
        .expect("written");
    let config = load(dir.path(), &[("listen", "127.0.0.1:7"), ("log.format", "json")]).expect("good");
    assert_eq!(config.listen.to_string(), "127.0.0.1:7");
    assert_eq!((config.limits.idle_seconds, config.log.format), (30, LogFormat::Json));
    assert_eq!(config.data, dir.path());
}

#[test]
fn networks_are_lists_wherever_they_are_written() {
    let dir = tempfile::tempdir().expect("temporary folder");
    std::fs::write(dir.path().join(FILE_NAME), "trusted_proxies = ['127.0.0.1', '172.16.0.0/12']\n")
        .expect("written");
    for flag in ["[\"192.0.2.0/24\", \"::1\"]", "[192.0.2.0/24,::1]"] {
        let config = load(dir.path(), &[("rates.exempt", flag)]).expect(flag);
        assert!(config.trusted_proxies.contains([172, 17, 0, 1].into()));
        assert!(config.rates.exempt.contains([192, 0, 2, 9].into()), "{flag}");
        assert!(!config.rates.exempt.contains([127, 0, 0, 1].into()), "nobody else is exempt");
    }
    assert!(Config::default().rates.exempt.is_empty() && Config::default().trusted_proxies.is_empty());
}

#[test]
fn mistakes_are_told_with_the_key() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (flags, word) in [
        (
            &[("limits.idle_second", "30")][..],
            "limits.idle_second: there is no such key; did you mean limits.idle_seconds?",
        ),
        (&[("listen", "localhost:4100")], "127.0.0.1:4100"),
        (&[("colour", "red")], "colour"),
        (&[("limits.idle_seconds", "1")], "limits.idle_seconds is 1: it must be 5 to 90"),
        (&[("limits.idle_seconds", "soon")], "idle_seconds"),
        (&[("blobs.store", "tape")], "blobs.store: there is no `tape`: write `folder` or `s3`"),
        (&[("engine", "diesel")], "engine: there is no `diesel`: write `embedded` or `memory`"),
        (&[("store.post_id_bytes", "5000000")], "16777216"),
        (&[("tls.key", "/k")], "tls.certificate"),
        (&[("public_url", "https://x")], "public_url"),
        (&[("limits.frame_bytes", "8192")], "frame_bytes"),
        (&[("log.level", "a=b=c")], "log.level"),
        (&[("trusted_proxies", "[\"proxy.example\"]")], "\"proxy.example\" is no network"),
        (&[("rates.exempt", "[\"10.0.0.0/33\"]")], "such as 172.16.0.0/12"),
        (&[("rates.exempt", "10.0.0.1")], "write a list"),
        (&[("log.level", "loud")], "log.level must be error, warn"),
        (&[("log.level", "info,loud")], "log.level"),
    ] {
        let error = load(dir.path(), flags).expect_err(word).to_string();
        assert!(error.contains(word), "{error:?} lacks {word:?}");
        assert!(!error.contains('\n'), "one line: {error:?}");
    }
    let missing = Sources { file: Some(dir.path().join("none.toml")), flags: Vec::new() };
    assert!(matches!(Config::load(&missing, dir.path().to_owned()), Err(ConfigError::NoFile(_))));
}

#[test]
fn the_data_folder_follows_xdg() {
    let from = |pairs: &'static [(&'static str, &'static str)]| {
        default_data(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    };
    assert_eq!(from(&[("HOME", "/h")]), Some("/h/.local/share/posthorn-server".into()));
    assert_eq!(from(&[("HOME", "/h"), ("XDG_DATA_HOME", "/d")]), Some("/d/posthorn-server".into()));
    assert_eq!(from(&[("XDG_DATA_HOME", "relative")]), None);
}
