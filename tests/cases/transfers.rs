//! One rule over an enum of commands, and events of several kinds heard as one.

use eventstore::{Event, Position, prelude::*};
use futures::TryStreamExt;

use super::{
    account::{Account, AccountEvent::Opened, Open},
    transfer::{BankEvent, Order, Transfer, TransferCommand, TransferEvent},
    world,
};

#[tokio::test]
async fn a_transfer_ends_once_and_the_bank_hears_of_everything() -> Result<(), Box<dyn std::error::Error>> {
    let world = world().await;
    let store = &world.store;
    let (id, ann) = (Id::<Transfer>::from("t1"), Id::<Account>::from("ann"));
    store.execute(&ann, Open { owner: "Ann".into() }).await?;
    let request = TransferCommand::Request { from: ann.clone(), to: ann.clone(), amount: 0 };
    store.execute(&id, request).await?;
    store.execute(&id, TransferCommand::Complete).await?;
    for late in [TransferCommand::Refuse, TransferCommand::Expire] {
        assert!(matches!(store.execute(&id, late).await, Err(CommandError::Rejected(_))));
    }
    let order = Order { id, from: ann.clone(), to: ann, amount: 0 };
    let heard: [BankEvent; 3] = [
        Opened { owner: "Ann".into() }.into(),
        TransferEvent::Requested(order).into(),
        TransferEvent::Completed.into(),
    ];
    assert_eq!(heard.each_ref().map(Event::name), ["account.opened", "transfer.requested", "transfer.completed"]);
    let log: Vec<Recorded<BankEvent>> = store.read().events().try_collect().await?;
    assert_eq!(log.iter().map(|event| &event.data).collect::<Vec<_>>(), heard.iter().collect::<Vec<_>>());
    assert_eq!(log[2].position, Position(3));
    Ok(())
}
