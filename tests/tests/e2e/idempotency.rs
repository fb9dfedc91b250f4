//! Run ids that clients choose.

use std::time::Duration;

use fumehood_client::Error;
use fumehood_client::proto::v1::StartRequest;
use fumehood_tests::{Told, within};

use super::house;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_the_same_request_is_the_same_run() {
    let house = house();
    let client = house.client().await;
    let request = StartRequest {
        run_id: "once".to_owned(),
        spec: Some(house.script("echo x >> runs; cat runs")),
    };
    assert!(!client.start(request.clone()).await.unwrap().existed);
    within("its end", client.wait("once", None)).await.unwrap();
    assert!(client.start(request.clone()).await.unwrap().existed);
    // Following it again tells what it told.
    let mut again = client.run(request).await.unwrap();
    assert_eq!(Told::all(again.events()).await.out(), "x\n");
    assert_eq!(
        std::fs::read_to_string(house.workspace().join("runs")).unwrap(),
        "x\n",
        "it ran once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_another_request_is_refused() {
    let house = house();
    let client = house.client().await;
    let request = |script| StartRequest {
        run_id: "taken".to_owned(),
        spec: Some(house.script(script)),
    };
    client.start(request("true")).await.unwrap();
    let refused = client.start(request("false")).await.unwrap_err();
    assert!(
        matches!(&refused, Error::AlreadyExists { message } if message.contains("taken")),
        "{refused:?}"
    );
    within("its end", client.wait("taken", None)).await.unwrap();
    client.release("taken").await.unwrap();
    assert!(
        !client.start(request("false")).await.unwrap().existed,
        "a released id is free"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_start_the_same_run_at_once_start_it_once() {
    let house = house();
    let client = house.client().await;
    let request = StartRequest {
        run_id: "raced".to_owned(),
        spec: Some(house.script("echo x >> runs; sleep 0.1")),
    };
    let starts: Vec<_> = (0..8)
        .map(|_| {
            let (client, request) = (client.clone(), request.clone());
            tokio::spawn(async move { client.start(request).await.unwrap().existed })
        })
        .collect();
    let mut fresh = 0;
    for start in starts {
        fresh += usize::from(!start.await.unwrap());
    }
    assert_eq!(fresh, 1);
    let info = within("its end", client.wait("raced", Some(Duration::from_secs(20))))
        .await
        .unwrap();
    assert!(info.finished.is_some());
    assert_eq!(std::fs::read_to_string(house.workspace().join("runs")).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_repeats_anothers_request_does_not_own_the_run() {
    let house = house();
    let client = house.client().await;
    let request = StartRequest {
        run_id: "owned".to_owned(),
        spec: Some(house.script("echo ready; sleep 0.3; echo done")),
    };
    let mut first = client.run(request.clone()).await.unwrap();
    let mut second = client.run(request).await.unwrap();
    within("its first event", second.events().next()).await.unwrap();
    drop(second);
    let told = Told::all(first.events()).await;
    assert_eq!((told.out().as_str(), told.finished().shell_code), ("ready\ndone\n", 0));
}
