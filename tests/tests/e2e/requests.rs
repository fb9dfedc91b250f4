//! What a request that cannot be taken is answered, typed and field by field.

use std::time::Duration;

use bytes::Bytes;
use fumehood_client::Error;
use fumehood_client::proto::convert::duration_from_std;
use fumehood_client::proto::v1::{
    EnvironmentVariable, ListRequest, OutputOptions, RequestedLimits, RunSpec, SignalScope, StartRequest, ending::Kind,
};
use fumehood_tests::{House, argv, inline, named_policy, send, within};

use super::house;

async fn refused_fields(house: &House, id: &str, spec: Option<RunSpec>) -> Vec<String> {
    let client = house.client().await;
    match client
        .start(StartRequest {
            run_id: id.to_owned(),
            spec,
        })
        .await
    {
        Err(Error::Invalid { violations, .. }) => {
            assert!(violations.iter().all(|violation| !violation.description.is_empty()));
            violations.into_iter().map(|violation| violation.field).collect()
        }
        other => panic!("not refused as invalid: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_field_is_named() {
    let house = house();
    let variable = |name: &'static [u8], value: &'static [u8]| EnvironmentVariable {
        name: Bytes::from_static(name),
        value: Bytes::from_static(value),
    };
    let limits = |limits: RequestedLimits| Some(limits);
    let zero = Some(duration_from_std(Duration::ZERO));
    let mut negative = zero;
    negative.as_mut().unwrap().seconds = -1;
    let valid = || house.script("true");
    let cases: Vec<(&str, RunSpec)> = vec![
        (
            "spec.argv",
            RunSpec {
                argv: vec![],
                ..valid()
            },
        ),
        (
            "spec.argv[0]",
            RunSpec {
                argv: argv(&[""]),
                ..valid()
            },
        ),
        (
            "spec.argv[1]",
            RunSpec {
                argv: argv(&["true", "a\0b"]),
                ..valid()
            },
        ),
        (
            "spec.argv[1]",
            RunSpec {
                argv: argv(&["true", &"x".repeat(131_072)]),
                ..valid()
            },
        ),
        (
            "spec.env[0]",
            RunSpec {
                env: vec![variable(b"", b"x")],
                ..valid()
            },
        ),
        (
            "spec.env[0]",
            RunSpec {
                env: vec![variable(b"A=B", b"x")],
                ..valid()
            },
        ),
        (
            "spec.env[1]",
            RunSpec {
                env: vec![variable(b"A", b"x"), variable(b"A", b"y")],
                ..valid()
            },
        ),
        (
            "spec.env[0]",
            RunSpec {
                env: vec![variable(b"A", b"x\0")],
                ..valid()
            },
        ),
        (
            "spec.workspace",
            RunSpec {
                workspace: Bytes::new(),
                ..valid()
            },
        ),
        (
            "spec.workspace",
            RunSpec {
                workspace: Bytes::from_static(b"relative"),
                ..valid()
            },
        ),
        (
            "spec.cwd",
            RunSpec {
                cwd: Bytes::from_static(b"a\0b"),
                ..valid()
            },
        ),
        (
            "spec.policy.name",
            RunSpec {
                policy: named_policy("nobody"),
                ..valid()
            },
        ),
        (
            "spec.policy.inline",
            RunSpec {
                policy: inline("version = 7"),
                ..valid()
            },
        ),
        (
            "spec.limits.wall",
            RunSpec {
                limits: limits(RequestedLimits {
                    wall: zero,
                    ..Default::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.limits.idle",
            RunSpec {
                limits: limits(RequestedLimits {
                    idle: negative,
                    ..Default::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.limits.memory_bytes",
            RunSpec {
                limits: limits(RequestedLimits {
                    memory_bytes: Some(0),
                    ..Default::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.limits.processes",
            RunSpec {
                limits: limits(RequestedLimits {
                    processes: Some(0),
                    ..Default::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.limits.output_bytes",
            RunSpec {
                limits: limits(RequestedLimits {
                    output_bytes: Some(0),
                    ..Default::default()
                }),
                ..valid()
            },
        ),
        ("spec.input", RunSpec { input: 77, ..valid() }),
        (
            "spec.output.keep_bytes",
            RunSpec {
                output: Some(OutputOptions {
                    keep_bytes: Some(1 << 40),
                    ..OutputOptions::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.output.flow",
            RunSpec {
                output: Some(OutputOptions {
                    keep_bytes: None,
                    flow: 9,
                    ..OutputOptions::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.output.layout",
            RunSpec {
                output: Some(OutputOptions {
                    layout: 7,
                    ..OutputOptions::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.output.spill",
            RunSpec {
                output: Some(OutputOptions {
                    spill: 8,
                    ..OutputOptions::default()
                }),
                ..valid()
            },
        ),
        (
            "spec.on_disconnect",
            RunSpec {
                on_disconnect: 9,
                ..valid()
            },
        ),
        (
            "spec.labels",
            RunSpec {
                labels: [("k".repeat(65), String::new())].into(),
                ..valid()
            },
        ),
    ];
    for (field, spec) in cases {
        assert_eq!(refused_fields(&house, "", Some(spec)).await, [field]);
    }
    assert_eq!(refused_fields(&house, "", None).await, ["spec"]);
    assert_eq!(refused_fields(&house, "no/slash", Some(valid())).await, ["run_id"]);
    assert_eq!(
        refused_fields(&house, &"x".repeat(129), Some(valid())).await,
        ["run_id"]
    );
    assert!(
        house.records().iter().all(|record| record["kind"] != "intent"),
        "nothing of it was begun"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_wrong_with_a_request_is_said_at_once() {
    let house = house();
    let spec = RunSpec {
        cwd: Bytes::from_static(b"\0"),
        input: 77,
        ..RunSpec::default()
    };
    let mut fields = refused_fields(&house, "?", Some(spec)).await;
    fields.sort();
    assert_eq!(
        fields,
        ["run_id", "spec.argv", "spec.cwd", "spec.input", "spec.workspace"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_not_there_is_not_found_by_any_call() {
    let house = house();
    let client = house.client().await;
    let answers = [
        client.get("nobody").await.err(),
        client.wait("nobody", None).await.err(),
        client.signal("nobody", 15, SignalScope::Leader).await.err(),
        client.kill("nobody", None, "").await.err(),
        client.release("nobody").await.err(),
        client.attach("nobody", 0).await.err(),
        client.policy("nobody").await.err(),
    ];
    for answer in answers {
        assert!(
            matches!(&answer, Some(Error::NotFound { message }) if message.contains("nobody")),
            "{answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_with_malformed_arguments_are_invalid() {
    let house = house();
    let client = house.client().await;
    let mut run = client
        .run(StartRequest {
            run_id: "here".to_owned(),
            spec: Some(house.script("echo ready; sleep 86400")),
        })
        .await
        .unwrap();
    fumehood_tests::Told::until(run.events(), |event| {
        matches!(event, fumehood_client::proto::v1::run_event::Event::Output(_))
    })
    .await;
    let token = ListRequest {
        page_token: "nonsense".to_owned(),
        ..ListRequest::default()
    };
    let fields = [
        client.signal("here", 65, SignalScope::Leader).await.err(),
        client.kill("here", None, "x".repeat(1025)).await.err(),
        client.list(token).await.err(),
    ]
    .map(|answer| match answer {
        Some(Error::Invalid { violations, .. }) => violations[0].field.clone(),
        other => panic!("not invalid: {other:?}"),
    });
    assert_eq!(fields, ["signal", "reason", "page_token"]);
    client.kill("here", Some(Duration::ZERO), "").await.unwrap();
    let late = client.signal("here", 15, SignalScope::Leader).await.unwrap_err();
    let Error::Precondition { violations, .. } = late else {
        panic!("{late:?}")
    };
    assert_eq!(violations[0].kind, "FINISHED");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_to_a_run_that_takes_none_is_a_failed_precondition() {
    let house = house();
    let client = house.client().await;
    let request = StartRequest {
        run_id: "deaf".to_owned(),
        spec: Some(house.script("sleep 86400")),
    };
    client.start(request).await.unwrap();
    let mut attached = client.attach("deaf", 0).await.unwrap();
    attached.input().send_stdin(Bytes::from_static(b"hello")).await.unwrap();
    let refused = within("the refusal", async {
        loop {
            match attached.events().next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the run ended"),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(
        matches!(&refused, Error::Precondition { violations, .. } if violations[0].kind == "INPUT_NOT_TAKEN"),
        "{refused:?}"
    );
    client.kill("deaf", Some(Duration::ZERO), "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_command_is_a_successful_call() {
    let house = house();
    let client = house.client().await;
    let told = send(&client, house.script("exit 42")).await;
    assert!(matches!(told.ending(), Kind::Exited(exited) if exited.code == 42));
    let told = send(&client, house.script("kill -SEGV $$")).await;
    let Kind::Signaled(signaled) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!((signaled.signal, signaled.name.as_str()), (11, "SIGSEGV"));
    assert_eq!(told.finished().shell_code, 139);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_looser_than_the_policys_is_denied_by_its_rule() {
    let house = house();
    let client = house.client().await;
    let mut spec = house.script("true");
    spec.limits = Some(RequestedLimits {
        wall: Some(duration_from_std(Duration::from_secs(1_000_000))),
        ..Default::default()
    });
    let told = send(&client, spec).await;
    assert_eq!(told.order(), ["accepted", "finished"]);
    let Kind::Denied(denied) = told.ending() else {
        panic!("{:?}", told.ending())
    };
    assert_eq!(denied.rule, "limits.wall");
    assert!(denied.explanation.contains("1h"), "{}", denied.explanation);
    assert_eq!(told.finished().shell_code, 125);
    let records = house.records();
    let denied = records
        .iter()
        .find(|record| record["kind"] == "denied")
        .expect("a record of the denial");
    assert_eq!(denied["rule"], "limits.wall");
}
