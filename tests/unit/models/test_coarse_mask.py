"""MediSee's coarse mask: what it learns from, and what follows it (docs/decisions/coarse_mask.md)."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from prsmed.geometry import Frame
from prsmed.losses import MediSeeLoss
from prsmed.models.box_head import BoxHead
from prsmed.models.coarse_mask import CoarseMask, Standardise, box_around, peaks_of
from prsmed.models.known import Known, Said
from prsmed.text.encode import pad_batch, word_ids
from tests.unit.small_medisee import HW, gradient, loss_batch, passed, small_medisee, small_text, turns_of, two_pictures


@pytest.fixture(scope="module")
def text():
    return small_text()


@pytest.fixture(scope="module")
def image():
    return two_pictures()


def test_the_coarse_mask_learns_where_and_box_and_decoder_follow_it(text, image):
    network = small_medisee(coarse_width=16)
    coarse = network.heads.coarse
    for weights in ({"coarse": 1.0}, {"l1": 1.0}):
        assert gradient(network, text, image, weights, coarse.query) > 0, weights
        assert gradient(network, text, image, weights, coarse.cells) > 0, weights
    assert gradient(network, text, image, {"bce": 1.0}, coarse) > 0 and coarse.shown.grad.abs().sum() > 0
    with torch.no_grad():
        looked = network.encode_image(image, HW)
        arguments = (looked, torch.randn(2, 2, network.language.hidden_width), torch.tensor([0, 1]), HW, (32, 32))
        before = network.point(*arguments)
        coarse.shown.normal_()
        told = network.point(*arguments)
    assert (told.mask_logits - before.mask_logits).abs().max() > 1e-3
    torch.testing.assert_close(told.coarse_logits, before.coarse_logits)


def _trained(network, text, image, learning, name_ids):
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(learning))
    turns, label = turns_of(text, "show the liver"), torch.zeros(1, 1, 32, 32)
    label[..., 8:20, 8:20] = 1
    batch, network = loss_batch(turns, label), network.train()
    network.zero_grad()
    absent = {"absent_ids": word_ids(["spleen"], text.tokenizer), "absent_image": torch.tensor([0])}
    output = passed(network, text, [turns], image[:1], HW[:1], name_ids=name_ids, **absent)
    loss = MediSeeLoss(dict.fromkeys(("ce", "bce", "dice", "l1", "giou", "coarse", "named", "absent", "recall"), 1.0))
    loss(output, batch).backward()
    return set(loss.terms)


def test_what_nothing_reads_does_not_run_while_training(text, image):
    names = word_ids(["liver"], text.tokenizer)
    network = small_medisee(coarse_width=16)
    monitored = Mock(wraps=network.language.forward)
    network.language.forward = monitored
    see = tuple(f"heads.coarse.{part}" for part in ("context", "cells", "named", "bias", "log_sharpness"))
    assert _trained(network, text, image, see, names) == {"named", "absent"} and not monitored.called
    assert network.heads.coarse.cells[0].weight.grad.abs().sum() > 0
    words = ("language.", "heads.seg_router", "heads.box_", "heads.coarse.query")
    by_name = {"coarse", "named", "absent", "recall"}
    assert _trained(network, text, image, words, names) == {"ce", "l1", "giou"} | by_name
    assert network.heads.coarse.query[1].weight.grad.abs().sum() > 0
    every = {"ce", "bce", "dice", "l1", "giou"}
    assert _trained(network, text, image, ("prompting.decoder.",), names) == every | by_name
    paper = small_medisee()
    assert _trained(paper, text, image, ("heads.box_",), names) == every


def test_a_query_learns_from_its_name_and_not_the_name_from_it(text, image):
    network = small_medisee(coarse_width=16)
    turns = turns_of(text, "show the liver", "show the spleen")
    names = word_ids(["liver", "spleen"], text.tokenizer)
    output = passed(network, text, [turns], image[:1], HW[:1], name_ids=names)
    MediSeeLoss({"recall": 1.0})(output, loss_batch(turns, torch.zeros(2, 1, 32, 32))).backward()
    assert network.heads.coarse.query[1].weight.grad.abs().sum() > 0
    assert network.heads.coarse.named[1].weight.grad.abs().sum() == 0
    with torch.no_grad():
        names = word_ids(["left kidney", "spleen"], text.tokenizer)
        other = passed(network, text, [turns], image[:1], HW[:1], name_ids=names)
    assert (other.named_logits - output.named_logits).abs().max() > 1e-3
    torch.testing.assert_close(other.coarse_logits, output.coarse_logits.detach())


def test_the_name_of_what_is_not_there_asks_the_cells_of_its_image(text, image):
    network = small_medisee(coarse_width=16)
    turns, names = turns_of(text, "show the liver", "show the spleen"), ["liver", "spleen"]
    with torch.no_grad():
        arguments = (network, text, [turns[:1], turns[1:]], image, HW)
        absent = {"absent_ids": word_ids(names, text.tokenizer), "absent_image": torch.tensor([0, 1])}
        output = passed(*arguments, name_ids=word_ids(names, text.tokenizer), **absent)
        frame, side = network.encoder.frame, network.encode_image(image, HW).cells.shape[-1]
        inside = (frame.patch_centers_norm(side, HW) < 1).all(dim=2)
    assert not inside[1].all()
    # the same names about the same images: their masks hold the peaks
    for peak, logits, (height, width) in zip(output.absent_peaks, output.named_logits, HW, strict=True):
        assert float(logits[0, :height, :width].amax()) == pytest.approx(float(peak), abs=0.05)


def test_a_peak_in_the_padding_is_none():
    logits = torch.tensor([[[0.5, 9.0], [-1.0, 9.0]]])
    inside = torch.tensor([[True, False, True, False]])
    assert peaks_of(logits, inside).tolist() == [0.5]


def test_what_lights_up_no_cell_is_not_shown(text, image):
    network = small_medisee(coarse_width=16)
    states, obj_image = torch.randn(4, 2, network.language.hidden_width), torch.tensor([1, 0, 1, 0])
    with torch.no_grad():
        looked = network.encode_image(image, HW)
        drawn = network.point(looked, states, obj_image, HW, (32, 32))
        # between the peaks of the two last rows: one of them lights up, the other does not
        network.heads.coarse.bias -= drawn.coarse_peaks[2:].mean()
        drawn = network.point(looked, states, obj_image, HW, (32, 32))
    ids = text.encode("show the liver").input_ids.repeat(4, 1)
    said = torch.tensor(network.candidate_ids).repeat(4, 1)
    said[0, 0] = 5  # the first row's words refuse
    logits = torch.zeros(4, len(text.tokenizer) + 2)
    logits[1:, network.candidate_ids[0]] = 0.01
    network.language.generate = Mock(return_value=Mock(ids=said, hidden=states))
    network.language.logits = Mock(return_value=logits)
    ask = {"obj_image": obj_image, "end_id": text.end_id, "max_new_tokens": 0}
    seen = network.ask(image, HW, ids, torch.ones_like(ids), **ask)
    lit = drawn.coarse_peaks >= 0
    assert lit[2] != lit[3] and seen.pointed.tolist() == [False, True, True, True]
    shown = seen.pointed & lit
    assert torch.equal(seen.presence_logit >= 0, shown) and float(seen.presence_logit.max()) <= 0.01
    torch.testing.assert_close(seen.mask_logits[shown], drawn.mask_logits[shown])
    assert seen.mask_logits[~shown].isneginf().all() and seen.boxes_xyxy_norm[~shown].isnan().all()
    assert seen.boxes_xyxy_norm[shown].isfinite().all() and seen.ids is None
    network.mode = "forced"
    forced = network.ask(image, HW, ids, torch.ones_like(ids), **ask)
    assert forced.presence_logit is None and forced.pointed is None and forced.mask_logits.isfinite().all()
    assert (forced.named == -1).all(), "nothing known, nothing decided"


@torch.no_grad()
def test_a_name_is_what_is_likely_said_meant_and_seen():
    torch.manual_seed(0)
    coarse, obj_image = CoarseMask(8, 12, hidden=16), torch.tensor([0, 0, 1])
    names = coarse.named(torch.randn(4, 12))
    cells, inside = torch.randn(2, 16, 3, 3) * 0.1, torch.ones(3, 9, dtype=torch.bool)
    queries = names[[1, 1, 1]]
    even = torch.zeros(3, 4)
    even[:, 1] = 1e-3

    def decide(said, cells=cells, told=even):
        words = Said(torch.randn(4, 12), said, torch.ones(3), told)
        named, agreed, asked = coarse.decide(queries, names, words, cells, obj_image, inside)
        for row, name in enumerate(named.tolist()):
            torch.testing.assert_close(asked[row], queries[row] if name == 1 else names[name])
        return named.tolist(), agreed.tolist()

    assert decide(even)[0] == [1, 1, 1], "the query's own"
    said = even.clone()
    said[0, 2], said[1, 2], said[2, 1] = 30, 0.01, 30
    named, agreed = decide(said)
    assert named == [2, 1, 1], "what is said for certain, not what is said by a hair"
    assert agreed == [True, False, True], "nothing tells the second row's names far enough apart"
    said[2, 2] = 30 + (names[1] @ (names[1] - names[2])) / 4
    assert decide(said)[1] == [True, False, False], "words for one thing, as much as the query for another"
    shows = cells.clone()
    coarse.log_sharpness.fill_(2.0)
    shows[1, :, 2, 2] = names[3] - names[1]  # the third row's image shows the last name, and nothing like the query
    assert decide(even, shows)[0] == [1, 1, 3]
    inside[2, 8] = False
    assert decide(even, shows)[0] == [1, 1, 1], "in the padding nothing is seen"
    facts = torch.zeros(3, 4)
    facts[1, 0], facts[2, 0] = 30, 0.01
    assert decide(even, told=facts) == ([1, 0, 1], [False, True, False]), "whose facts the question's words stand in"


@torch.no_grad()
def test_what_has_nine_tenths_of_the_products_is_sure():
    coarse = CoarseMask(8, 12, hidden=16)
    names = coarse.named(torch.randn(1, 12))[[0, 0]]
    said = torch.tensor([[4.38, 0.0], [4.41, 0.0], [0.0, -4.41]])  # halved; 9 : 1 is a difference of 2.197
    words = Said(torch.randn(2, 12), said, torch.ones(3), torch.zeros(3, 2))
    where = torch.zeros(1, 16, 3, 3), torch.zeros(3, dtype=torch.long), torch.ones(3, 9, dtype=torch.bool)
    assert coarse.decide(names[[0, 0, 0]], names, words, *where)[1].tolist() == [False, True, True]


def test_known_is_what_follows_the_leads_by_half():
    ids = torch.tensor([[1, 2, 5, -1], [1, 2, 6, 7], [3, 4, 8, -1]])
    told = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    known = Known(ids, ids, torch.tensor([[True, True, False, False]] * 3), told)
    log_prob = torch.tensor([[0.5, 0.4, 0.25, 1.0], [0.5, 0.4, 0.5, 0.5], [0.5, 0.2, 0.1, 1.0]]).log().repeat(2, 1, 1)
    names = torch.randn(3, 8)
    log_prob[0], second_only = -9.0, torch.tensor([False, True])
    said = known.said(log_prob, names, second_only)
    torch.testing.assert_close(said.log_prob.exp(), torch.tensor([[0.05, 0.05, 0.01]]))
    torch.testing.assert_close(said.known_prob, torch.tensor([0.11 / 0.3], dtype=torch.float64))
    assert said.names is names and said.told.tolist() == [[3.0, 4.0, 5.0]]
    ids = torch.tensor([[1, 2, 5, -1, -1], [1, 2, 5, 6, -1], [1, 2, 5, 6, 7]])
    log_prob = torch.tensor([[1, 1, 0.8, 1, 1], [1, 1, 0.8, 0.5, 1], [1, 1, 0.8, 0.5, 0.25]]).log()[None]
    known = Known(ids, ids, torch.tensor([[True, True, False, False, False]] * 3), told[:1])
    said = known.said(log_prob, names, torch.tensor([True]))
    torch.testing.assert_close(said.log_prob.exp(), torch.tensor([[0.4, 0.3, 0.1]]))  # of what begins another name
    torch.testing.assert_close(said.known_prob, torch.tensor([0.8], dtype=torch.float64))


@pytest.mark.parametrize("mode", ["forced", "free"])
def test_an_answer_begins_with_what_was_decided(text, image, mode):
    network = small_medisee(coarse_width=16)
    network.mode = mode
    statements = ["this is the liver", "these are the longer veins of the liver"]
    statement_ids = text.begin_ids(statements)
    leads = [len(text.begin_ids([lead])[0]) for lead in ("this is the", "these are the longer")]
    is_lead = torch.arange(statement_ids.shape[1]) < torch.tensor(leads)[:, None]
    known = Known(word_ids(["liver", "veins"], text.tokenizer), statement_ids, is_lead, torch.zeros(2, 2))
    ids = text.encode("show the liver").input_ids.repeat(2, 1)
    ask = {"obj_image": torch.tensor([0, 1]), "end_id": text.end_id, "max_new_tokens": 4}
    original = type(network.language).logits

    def points(hidden):  # the first row says the candidates, the second never
        raw = original(network.language, hidden)
        if hidden.ndim == 2:
            raw[0, network.candidate_ids[min(said["n"], 1)]] += 1e4 * (said["n"] < 2)
            raw[1, network.candidate_ids] -= 1e4
            said["n"] += 1
        return raw

    said = {"n": 0}
    likely = torch.zeros(2, *statement_ids.shape)
    network.language.likelihoods = Mock(return_value=likely)
    network.language.logits = points if mode == "free" else network.language.logits
    for number, statement in enumerate(statements):
        said["n"] = 0
        network.heads.coarse.decide = lambda queries, names, *_, number=number: (
            torch.full((len(queries),), number),
            torch.ones(len(queries), dtype=torch.bool),
            names[[number] * len(queries)],
        )
        seen = network.ask(image, HW, ids, torch.ones_like(ids), known=known, **ask)
        texts = [text.decode(row) for row in seen.ids]
        assert texts[0].startswith(statement) and len(seen.ids[0]) == 2 + known.statement_ids.shape[1] + 4
        assert seen.named.tolist() == [number, number if mode == "forced" else -1]
        assert texts[1].startswith(statement) == (mode == "forced")
        assert seen.agreed.tolist() == [True, mode == "forced"]
    own = network.ask(image, HW, ids, torch.ones_like(ids), **ask) if mode == "forced" else None
    network.language.likelihoods = Mock(return_value=likely.masked_fill(~is_lead, -3.0))
    said["n"] = 0
    other = network.ask(image, HW, ids, torch.ones_like(ids), known=known, **ask)
    assert other.named.tolist() == [-1, -1] and not other.agreed.any(), "the words name something else"
    assert not any(text.decode(row).startswith(tuple(statements)) for row in other.ids)
    if own is not None:
        torch.testing.assert_close(other.mask_logits, own.mask_logits)
        assert torch.equal(other.ids, own.ids)
    plain = small_medisee()
    plain.mode = "forced"
    assert (plain.ask(image, HW, ids, torch.ones_like(ids), known=known, **ask).named == -1).all(), "no coarse mask"


@pytest.mark.parametrize("mode", ["forced", "free"])
def test_questions_of_a_batch_are_answered_as_each_alone(text, image, mode):
    names = ["liver", "portal vein and splenic vein", "left kidney"]
    leads = ["This is the", "These are the", "This is the"]
    statement_ids = text.begin_ids([f"{lead} {name}" for lead, name in zip(leads, names, strict=True)])
    lengths = torch.tensor([len(text.begin_ids([lead])[0]) for lead in leads])
    is_lead = torch.arange(statement_ids.shape[1]) < lengths[:, None]
    known = Known(word_ids(names, text.tokenizer), statement_ids, is_lead, 3 * torch.rand(3, 3))
    questions = ["liver", "and a much longer question about the left kidney and the spleen", "show the veins"]
    decided = set()
    for seed in range(4):
        network = small_medisee(seed=seed, coarse_width=16)
        network.mode = mode
        if mode == "free":  # every row points
            generate = network.language.generate

            def pointing(*arguments, generate=generate, network=network, **options):
                said = generate(*arguments, **options)
                if options["max_new_tokens"] == 2:
                    said.ids[:] = torch.tensor(network.candidate_ids)
                return said

            network.language.generate = pointing
        likelihoods = network.language.likelihoods  # of random weights every name is unlikely
        network.language.likelihoods = lambda *read, likelihoods=likelihoods: 0.02 * likelihoods(*read)

        def asked(rows, network=network):
            batch = pad_batch([text.encode(questions[row]) for row in rows], text.pad_id)
            of = {"obj_image": torch.tensor(rows) % 2, "end_id": text.end_id, "max_new_tokens": 4}
            of["known"] = replace(known, told=known.told[rows])
            return network.ask(image, HW, batch["input_ids"], batch["attention_mask"], **of)

        together = asked([0, 1, 2])
        for row in range(3):
            alone = asked([row])
            assert text.decode(together.ids[row]) == text.decode(alone.ids[0])
            assert together.named[row] == alone.named[0] and together.agreed[row] == alone.agreed[0]
            torch.testing.assert_close(together.mask_logits[row], alone.mask_logits[0], atol=1e-4, rtol=0)
        decided |= set(together.named.tolist())
    assert len(decided - {-1}) > 1


def test_states_are_standardised_by_the_batch_and_one_alone_by_what_was_seen():
    standardise = Standardise(3)
    states = torch.tensor([[100.0, 0.0, 1.0], [100.2, 0.0, 3.0], [100.4, 0.0, 5.0], [100.2, 0.0, 3.0]])
    for _ in range(300):
        seen = standardise(states)
    torch.testing.assert_close(seen[:, 0], seen[:, 2], atol=1e-2, rtol=0)
    torch.testing.assert_close(seen.std(dim=0, correction=0), torch.tensor([1.0, 0.0, 1.0]), atol=1e-2, rtol=0)
    # of so few the running deviation is a larger one: it divides by one less
    torch.testing.assert_close(standardise(states[:1]), seen[:1] * 0.75**0.5, atol=1e-2, rtol=0)
    torch.testing.assert_close(standardise.eval()(states)[:1], standardise(states[:1]))
    assert standardise.train()(states[:0]).shape == (0, 3)


def test_queries_of_states_and_of_names_are_of_one_length():
    torch.manual_seed(0)
    coarse = CoarseMask(8, 12, hidden=16)
    for to_query in (coarse.query, coarse.named):  # far above the norm's eps
        torch.nn.init.normal_(to_query[-2].weight)
    for queries in (coarse.query(torch.randn(5, 12)), coarse.named(torch.randn(5, 12))):
        torch.testing.assert_close(queries.norm(dim=1), torch.full((5,), 4.0), atol=1e-3, rtol=0)


def test_the_language_model_sees_the_cells(text, image):
    network = small_medisee(coarse_width=16)
    with torch.no_grad():
        before = network.encode_image(image, HW)
        network.heads.coarse.cells[-1].weight.normal_()
        after = network.encode_image(image, HW)
    assert (before.image_embeds - after.image_embeds).abs().max() > 1e-3


@pytest.mark.parametrize("hw_px", [(64, 64), (64, 40), (30, 64)])
def test_the_box_around_an_ellipse(hw_px):
    frame, cells = Frame(64, "pad"), 64
    centers = frame.patch_centers_norm(cells, [hw_px])
    middle, half = torch.tensor([0.6, 0.4]), torch.tensor([0.2, 0.3])
    ellipse, inside = (((centers - middle) / half) ** 2).sum(dim=2) < 1, (centers < 1).all(dim=2)
    logits = torch.where(ellipse | ~inside, 3.0, -4.0).unflatten(1, (cells, cells))
    expected = torch.tensor([[0.6, 0.4, 0.4, 0.6]])
    torch.testing.assert_close(box_around(logits, centers, inside), expected, atol=0.03, rtol=0)
    torch.testing.assert_close(box_around(logits - 12, centers, inside), expected, atol=0.03, rtol=0)


def test_the_decoder_is_told_of_no_mask_in_the_padding(image):
    network = small_medisee(coarse_width=16)
    network.heads.coarse.shown.data.fill_(1.0)
    with torch.no_grad():
        looked = network.encode_image(image, HW)
        states = torch.randn(2, 2, network.language.hidden_width)
        pointed = network.heads(states, looked.cells, torch.tensor([0, 1]), network.encoder.frame, HW)
    assert (pointed.coarse_embeds[0] > 0).all() and (pointed.coarse_embeds[1, :, :5] > 0).all()
    assert (pointed.coarse_embeds[1, :, 5:] == 0).all()


@pytest.mark.parametrize("learning", ["heads.coarse.cells.", "language.", ("prompting.decoder.", "heads.project.")])
def test_a_batch_without_objects_is_no_trouble_in_any_stage(text, image, learning):
    network = small_medisee(coarse_width=16)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(learning))
    turns = [text.encode("show the liver", "no liver")]
    empty = torch.zeros(0, 1, 32, 32)
    batch = {
        "label": empty,
        "valid": empty,
        "boxes_xyxy_norm": torch.zeros(0, 4),
        "obj_image": torch.zeros(0).long(),
        "target_ids": torch.stack([turn.target_ids for turn in turns]),
    }
    names = word_ids([], text.tokenizer)
    output = passed(network.train(), text, [turns], image[:1], HW[:1], name_ids=names)
    weights = dict.fromkeys(("ce", "bce", "dice", "l1", "giou", "coarse", "named", "recall"), 1.0)
    MediSeeLoss(weights)(output, batch).backward()


def test_a_box_head_starts_at_the_box_it_is_handed():
    first = torch.tensor([[0.3, 0.6, 0.2, 0.1]])
    torch.testing.assert_close(BoxHead(8)(torch.randn(1, 8), first), first)
