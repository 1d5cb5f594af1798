//! Tensors beside a model that cannot change its predictions: the state of a training.

/// Parts of names that say so, in small letters.
const PARTS: [&str; 42] = [
    "optimizer",
    "optimizers",
    "optimizer_state",
    "optimizer_states",
    "optimizer_state_dict",
    "optim",
    "opt",
    "opt_state",
    "opt_state_dict",
    "adam",
    "adagrad",
    "exp_avg",
    "exp_avg_sq",
    "max_exp_avg_sq",
    "momentum",
    "momentum1",
    "momentum2",
    "momentum_buffer",
    "square_avg",
    "sum_of_squares",
    "scheduler",
    "schedulers",
    "lr_scheduler",
    "lr_schedulers",
    "scaler",
    "grad_scaler",
    "ema",
    "ema_model",
    "loss",
    "losses",
    "loss_fn",
    "loss_ws",
    "criterion",
    "metric",
    "metrics",
    "step",
    "steps",
    "global_step",
    "epoch",
    "iter",
    "n_averaged",
    "num_batches_tracked",
];

/// Whether the name of a tensor says that it is part of a training and not of a model.
pub(super) fn is_harmless(name: &str) -> bool {
    name.split('.').any(|part| {
        let part = part.to_ascii_lowercase();
        PARTS.contains(&&*part)
            || part.starts_with("rng")
            || part.ends_with("rng_state")
            || part.ends_with("rng_states")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_training_is_told_from_a_part_of_a_model() {
        for name in
            ["opt.state.0.exp_avg", "step", "ema.emb_l.0.weight", "torch_rng_state", "train.metrics.auc", "n_averaged"]
        {
            assert!(is_harmless(name), "{name}");
        }
        for name in ["cross.0.weight", "temperature", "options", "norm.running_mean", "stepwise"] {
            assert!(!is_harmless(name), "{name}");
        }
    }
}
