"""Experiments on a finished run, one module for each question: `make experiment NAME=frontier`.

Each module has

    QUESTION, PAPER   what is asked, and where it comes from
    prepare(runs)     optional: writes files that options of variants name, before they run
    variants()        the stages with other options that have to run, see `variants`
    measure(runs)     the rows of the table
    draw(rows, figure)
    seen(rows)        two sentences that say what the rows show

`output` writes the table, the picture and the sentences. Everything after `measure` uses nothing but the rows.
"""
