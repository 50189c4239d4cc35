use axum::{Json, extract::{Path, State}};
use eventstore_axum::{CommandId, EntityTag, IfMatch, Problem};

/// `Idempotency-Key` is required: the same key again gets the first answer, from any process.
async fn deposit(
    State(store): State<Store>, Path(id): Path<Id<Account>>, key: CommandId, Json(amount): Json<i64>,
) -> Result<EntityTag, Problem> {
    let done = store.execute(&id, Deposit { amount }).command_id(key.scoped("deposit")).await?;
    Ok(done.version.into())                                                     // ETag: "1"
}

/// `If-Match` is required: 428 without it, 412 if the account has changed since, 422 if the rule refuses.
async fn withdraw(
    State(store): State<Store>, Path(id): Path<Id<Account>>, seen: IfMatch, Json(amount): Json<i64>,
) -> Result<EntityTag, Problem> {
    let command = store.execute(&id, Withdraw { amount }).expecting(seen.version()?);
    Ok(command.await.map_err(Problem::precondition)?.version.into())
}
