//! Keys of every kind that a document may give, shown on either stack.

use weir_policy::suites::Stack;

use super::*;

/// A chain and key by openssl, as the agent reads them: rcgen does not make all.
fn by_openssl(algorithm: &str) -> CertifiedKey {
    let at = tempfile::tempdir().unwrap();
    let openssl = |words: &str| {
        let done = Command::new("openssl").current_dir(&at).args(words.split(' ')).output();
        assert!(done.unwrap().status.success(), "openssl {words}");
    };
    openssl(&format!(
        "req -x509 -newkey {algorithm} -nodes -keyout k.pem -out c.pem -subj /CN={NAME} -addext \
         subjectAltName=DNS:{NAME}"
    ));
    let read = |name: &str| std::fs::read(at.path().join(name)).unwrap();
    let pki: &dyn weir_policy::material::Certificates = &weir_pki::Pki;
    pki.certified_key(&read("c.pem"), &read("k.pem")).unwrap().certified
}

#[test]
fn keys_that_the_agent_takes_from_a_document_are_keys_that_a_leg_can_show() {
    for algorithm in ["rsa:2048", "rsa:4096"].map(str::to_owned).into_iter().chain(
        ["P-224", "P-256", "P-384", "P-521"]
            .map(|curve| format!("ec -pkeyopt ec_paramgen_curve:{curve}")),
    ) {
        let loaded = LegKey::new(&by_openssl(&algorithm));
        assert!(loaded.is_ok(), "{algorithm}: {loaded:?}");
    }
}

#[test]
fn key_on_p521_is_shown_on_either_stack() {
    run(async |world| {
        let key =
            Arc::new(LegKey::new(&by_openssl("ec -pkeyopt ec_paramgen_curve:P-521")).unwrap());
        let server = serve(Rc::clone(&world), None).await;
        let legs = || world.legacy.counts().legs.load(Ordering::Relaxed);
        for (number, (version, suite)) in
            cells().filter(|(_, suite)| suite.authentication == Authentication::Ecdsa).enumerate()
        {
            let role = client_role(u8::try_from(number).unwrap());
            let client = world.legacy.leg(world.end(version, suite, role)).await.unwrap();
            let (before, cell) = (legs(), format!("{version} {}", suite.name));
            let [got, _] = through(&world, server, client, &key, &cell).await;
            assert_eq!((got.version.0, got.suite.0), (version.code(), suite.id), "{cell}");
            assert_eq!(legs() - before, u64::from(suite.stack == Stack::Legacy), "{cell}");
        }
    });
}

#[test]
fn key_on_p224_is_reached_and_shown_on_the_legacy_stack_only() {
    run(async |world| {
        let key =
            Arc::new(LegKey::new(&by_openssl("ec -pkeyopt ec_paramgen_curve:P-224")).unwrap());
        let suite = Suite::by_id(0xc02b).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        // A server that would speak 1.3, were it not for its key.
        let serving = (Rc::clone(&world), Arc::clone(&key));
        spawn_local(async move {
            loop {
                let (world, key) = &serving;
                let (stream, _) = listener.accept().await.unwrap();
                let bounds = LegacyBounds::with_key(key.kind(), &world.everything).unwrap();
                let chain = key.chain().iter().map(|one| one.as_ref().to_vec()).collect();
                let (key, session) = (key.pkcs8().clone(), [0; BINDING]);
                let role = Role::ToClient { chain, key, alpn: None, staple: None, session };
                let tls = world.legacy.leg(world.stacks().open(Some(bounds), role).unwrap());
                let tls = tls.await.unwrap();
                spawn_local(echo(Leg::new(stream, tls)));
            }
        });
        for _ in 0..2 {
            let open = world.end(Protocol::Tls12, suite, client_role(1));
            let client = world.legacy.leg(open).await.unwrap();
            let got = through(&world, server, client, &key, "P-224").await;
            assert_eq!(got.map(|one| one.version.0), [Protocol::Tls12.code(); 2]);
        }
        assert!(world.legacy.servers.knows(at(server), Some(NAME), Instant::now()));
        // A client that knows 1.3 only cannot be answered with it, on either stack.
        let mut hello = world.modern.server_leg(Some(NAME), server, vec![]).unwrap();
        let mut wire = Vec::new();
        hello.write_wire(&mut wire);
        let Peek::Hello(hello) = peek(&wire) else { panic!("no hello") };
        assert!(!hello.supported_with(key.kind(), &world.everything));
        let only = only(Protocol::Tls13, Suite::by_id(0x1301).unwrap());
        assert!(!hello.supported_by_legacy(key.kind(), &only));
    });
}
