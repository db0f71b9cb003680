"""A recurrent language model: embeddings, LSTM layers, and the embeddings again as the output layer.

The shape of Merity et al. 2017 (arXiv 1708.02182) with plain dropout; small enough to train on transcripts in a
minute.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class LstmLMConfig(PretrainedConfig):
    """Sizes of an `LstmLMForCausalLM`; embeddings are as wide as the LSTM, as they are its output layer, too."""

    model_type = "lstm_lm"

    vocab_size: int = 32
    hidden_size: int = 256
    num_hidden_layers: int = 2
    dropout: float = 0.2
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    tie_word_embeddings: bool = True


class LstmLMForCausalLM(PreTrainedModel):
    """Token ids to the logits of the next token.

    `accepts_loss_kwargs = False`: see `hfaudio.models.lstm_ctc.LstmForCTC`.
    """

    config_class = LstmLMConfig
    base_model_prefix = "model"
    accepts_loss_kwargs = False
    _tied_weights_keys = {"lm_head.weight": "embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LstmLMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            nn.LSTM(config.hidden_size, config.hidden_size, batch_first=True) for _ in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own initialisation of LSTMs; an embedding that is the output layer, too, must begin small.
        if isinstance(module, nn.LSTM):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding | nn.Linear):
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> CausalLMOutput:
        """Logits (B, T, V) of ids (B, T); with labels (B, T), -100 where nothing is predicted, also the mean loss.

        Labels are the ids themselves, shifted here. The mask is not needed: with padding on the right no token comes
        after a pad.
        """
        hidden = self.dropout(self.embed_tokens(input_ids))
        for layer in self.layers:
            hidden = self.dropout(layer(hidden)[0])
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)
