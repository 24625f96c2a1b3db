import pytest
from helpers import fit

from gpt import InputError
from gpt.training import report as report_module
from gpt.training.report import report


@pytest.fixture
def trained(make_trainer, tiny_config, quiet):
    def train(name):
        trainer = make_trainer(tiny_config, name)
        assert fit(trainer, quiet)
        return trainer

    return train


@pytest.mark.parametrize("name", ["a$^$b", "price$5_$", "[red]loss[/]", "50 % of\nit"])
def test_a_run_of_any_name_ends_with_its_table_and_picture(trained, capsys, name):
    trainer = trained(name)
    report(trainer)
    output = capsys.readouterr().out
    assert "best checkpoint" in output
    assert "could not be drawn" not in output
    assert (trainer.run / "loss.png").is_file()


@pytest.mark.parametrize("error", [ValueError("no such font"), OSError(28, "No space left on device"), KeyError("x")])
def test_a_picture_that_cannot_be_drawn_is_said_in_its_row(trained, capsys, monkeypatch, error):
    def draw(_):
        raise error

    monkeypatch.setattr(report_module, "draw_losses", draw)
    report(trained("run"))
    output = capsys.readouterr().out
    assert f"could not be drawn ({type(error).__name__}: " in output
    assert "best checkpoint" in output


@pytest.mark.parametrize("error", [InputError("holds no usable checkpoint"), OSError(5, "Input/output error")])
def test_a_checkpoint_that_cannot_be_read_at_the_end_costs_the_sample_alone(trained, capsys, monkeypatch, error):
    def load(*_):
        raise error

    monkeypatch.setattr(report_module, "load_run", load)
    report(trained("run"))
    output = capsys.readouterr().out
    assert str(error) in output
    assert "trained" in output
    assert "(no sample: the best checkpoint could not be loaded" in output
