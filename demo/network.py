"""The small OFA, and how training looks into it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from demo.pool import GRID, TARGETS, Pixels
from demo.scenes import MAX_COUNT
from worker.engines.ofa_imports import import_ofa
from worker.engines.ofa_text import EOS, PAD

CONFIG: dict[str, Any] = {
    "d_model": 128,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "resnet_type": "resnet18",
    "max_position_embeddings": 256,
    "token_bucket_size": 64,
    # A picture of 96 pixels has 6 x 6 places; the default, 42, makes tables of 20 MB for places that never occur.
    "image_bucket_size": 8,
    "code_image_size": 64,
    # Places and word positions are added to what is there, not only to the attention: "left of" is learnt far sooner.
    "entangle_position_embedding": True,
    "dropout": 0.0,
    # The default, 0.02, is made for 768 dimensions and stays stuck at 128.
    "init_std": 0.08,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Ids of a batch of questions (batch, length), padded on the right, and which picture each is about (batch,)."""

    ids: Tensor
    picture: Tensor


def pad(rows: list[list[int]]) -> Tensor:
    """Return rows of ids as one tensor, padded on the right."""
    length = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (length - len(row)) for row in rows])


def normalise(pictures: Pixels) -> Tensor:
    """Return uint8 pictures (n, side, side, 3) as floats (n, 3, side, side), mean and deviation 0.5."""
    pixels = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    return ((pixels / 255 - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)


class Network(nn.Module):
    """OFA with its parts laid open, plus what is for training alone: what is at each place, and where is it?

    `name_ids` holds the tokens of the names of TARGETS, and then again, in the plural, of as many as have one.
    """

    def __init__(self, rows: int, label_ids: list[int], name_ids: list[list[int]]) -> None:
        super().__init__()
        classes = import_ofa()
        self.config = classes.config(vocab_size=rows, **CONFIG)
        self.ofa = classes.model(self.config)
        self.resnet = self.ofa.encoder.embed_images.to(memory_format=torch.channels_last)
        self.image_proj = self.ofa.encoder.image_proj
        # Both run once a picture, not once a caption: the encoder is given their output instead of pictures.
        self.ofa.encoder.embed_images = nn.Identity()
        self.ofa.encoder.image_proj = nn.Identity()
        # Training needs three columns of the output projection, at one position: see answers().
        self.ofa.decoder.output_projection = None
        self.nothing = nn.Parameter(torch.randn(len(name_ids), CONFIG["d_model"]) * CONFIG["init_std"])
        self.sharpness = nn.Parameter(torch.full((len(name_ids),), 16.0))
        self.name_ids = name_ids
        self._start_from_likeness()
        self.pointing_head = nn.Linear(CONFIG["d_model"], 2 + len(TARGETS))
        self.presence_head = nn.Linear(CONFIG["d_model"], 1)
        self.centre_head = nn.Linear(CONFIG["d_model"], 1)
        self.census_head = nn.Linear(CONFIG["d_model"], MAX_COUNT + 1 + 3 + 3)
        # Which target a token names, and which of its values (counted from 1, as in a pool's places); -1 is none.
        self.target_of, self.value_of = torch.full((rows,), -1), torch.zeros(rows, dtype=torch.long)
        for index, ids in enumerate(name_ids):
            self.target_of[ids] = index % len(TARGETS)
            self.value_of[ids] = torch.arange(1, len(ids) + 1)
        self.label_ids = label_ids

    @torch.no_grad()
    def _start_from_likeness(self) -> None:
        """Make every encoder layer begin by attending to what is alike: a red place to the word "red".

        Keys start as a copy of the queries (training parts them), and words stand out against position and type. What
        the ResNet sees comes in vectors of length 30 to 100: a position of length 1 beside it would be lost, and
        "on the left" stayed at chance.
        """
        self.ofa.encoder.embed_tokens.weight.mul_(2.5)
        self.ofa.encoder.embed_image_positions.weight.mul_(30.0)
        for layer in self.ofa.encoder.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)

    def see(self, pictures: Tensor, *, resting: bool = False) -> Tensor:
        """Return what the encoder sees of the pictures (pictures, d_model, 6, 6); a resting ResNet learns nothing."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not resting):
            features = self.resnet(pictures)
        projected: Tensor = self.image_proj(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return projected.float()

    def place_loss(self, features: Tensor, places: Tensor) -> Tensor:
        """Return the loss of naming what is at each place; nothing there counts less, as it is everywhere.

        A name is the very word's row in the table of words: a place with a red circle comes to look like the words
        "red" and "circle", and the encoder finds what a caption speaks of by likeness. With a table of names of its
        own the answers stayed at chance for ten minutes and more.
        """
        seen = functional.normalize(features.flatten(2).transpose(1, 2).flatten(0, 1), dim=-1)
        table = self.ofa.encoder.embed_tokens.weight
        loss = torch.zeros(())
        for index, ids in enumerate(self.name_ids):
            names = torch.cat([self.nothing[index : index + 1], table[ids]])
            weight = torch.ones(len(names))
            weight[0] = 0.3
            target = places[:, index % len(TARGETS)].flatten().long()
            logits = (seen @ functional.normalize(names, dim=-1).T).float() * self.sharpness[index]
            loss = loss + functional.cross_entropy(logits, target, weight=weight)
        return loss

    def answers(self, features: Tensor, questions: Questions) -> tuple[Tensor, Tensor]:
        """Return the labels' logits (batch, 3) at the question's last token, and the encoder's output."""
        ids = questions.ids
        encoded = self.ofa.encoder(
            input_ids=ids,
            patch_images=features[questions.picture],
            patch_masks=torch.ones(len(ids), dtype=torch.bool),
        )
        # The prefix is the question without </s>; in a padded row that position is masked and never read.
        prefix = ids[:, :-1]
        mask = encoded.padding_mask[:, None, None, :].expand(-1, 1, prefix.shape[1], -1)
        decoded = self.ofa.decoder(
            prefix,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=torch.zeros(mask.shape).masked_fill(mask, torch.finfo(torch.float32).min),
            src_pos_embed=encoded.position_embedding,
        ).last_hidden_state
        last = ids.eq(EOS).int().argmax(dim=1) - 1
        hidden = decoded[torch.arange(len(ids)), last]
        table: Tensor = self.ofa.encoder.embed_tokens.weight
        return hidden @ table[self.label_ids].T, encoded.last_hidden_state

    def pointing_loss(self, encoded: Tensor, places: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of finding what a question speaks of, place by place.

        `places` (batch, targets, 6, 6) is what there is, `wanted` (batch, 2, targets) two descriptions of what is
        asked for. A place is asked whether everything that a description names is so there, and, because that is
        slow to learn alone, the same of every target by itself where there is a thing and the target is named.
        """
        points = self.pointing_head(encoded[:, : GRID * GRID]).float()
        there = places.flatten(2)[:, None].long()
        same = wanted[..., None] == there
        whole = ((wanted[..., None] == 0) | same).all(dim=2).transpose(1, 2)
        # About one place in ten is right.
        loss = functional.binary_cross_entropy_with_logits(points[..., :2], whole.float(), pos_weight=torch.tensor(4.0))
        part, asked = same[:, 1].transpose(1, 2), ((wanted[:, 1, :, None] > 0) & (there[:, 0] > 0)).transpose(1, 2)
        return loss + functional.binary_cross_entropy_with_logits(points[..., 2:][asked], part[asked].float())

    def centre_loss(self, features: Tensor, centres: Tensor) -> Tensor:
        """Return the loss of knowing where things have their centres: a big one covers four places and counts once."""
        guess = self.centre_head(features.flatten(2).transpose(1, 2))[..., 0]
        return functional.binary_cross_entropy_with_logits(
            guess.float(), centres.flatten(1), pos_weight=torch.tensor(4.0)
        )

    def census_loss(self, encoded: Tensor, questions: Questions, wanted: Tensor, census: Tensor) -> Tensor:
        """Return the loss of knowing, at the word for a kind, how many such things there are and where the only one is.

        Without it the model said yes to every number and side for the first twenty minutes, and to most after that.
        """
        ids = questions.ids
        row, column = torch.nonzero(self.target_of[ids] == 0, as_tuple=True)
        kind = self.value_of[ids[row, column]]
        second = (wanted[row, 0, 0] != kind).long()
        truth = torch.where((wanted[row, second, 0] == kind)[:, None], census[row, second], -1)
        guess = self.census_head(encoded[row, GRID * GRID + column]).float().split((MAX_COUNT + 1, 3, 3), dim=1)
        loss = torch.zeros(())
        for index, (answer, weight) in enumerate(zip(guess, (1.0, 0.5, 0.5), strict=True)):
            if (truth[:, index] >= 0).any():
                loss = loss + weight * functional.cross_entropy(answer, truth[:, index], ignore_index=-1)
        return loss

    def presence_loss(self, encoded: Tensor, places: Tensor, ids: Tensor) -> Tensor:
        """Return the loss of knowing, at every word that names a kind, a colour ..., whether it is in the picture."""
        seen = torch.zeros(len(places), len(TARGETS), 16, dtype=torch.bool)
        seen.scatter_(2, places.flatten(2).long(), value=True)
        row, column = torch.nonzero(self.target_of[ids] >= 0, as_tuple=True)
        token = ids[row, column]
        present = seen[row, self.target_of[token], self.value_of[token]]
        guess = self.presence_head(encoded[row, GRID * GRID + column])[:, 0]
        return functional.binary_cross_entropy_with_logits(guess.float(), present.float())
