"""The rows of tables in which an image may have several classes: how they are told, and what is wrong with others."""

import pytest

from training_flax.files.rows import rows_of

GOOD = {
    "a bar": "path,label\na,red|blue\nb,\nc,red\n",
    "a bar in a table of semicolons": "path;label\na;red|blue\nb;\nc;red\n",
    "a semicolon": "path,label\na,red;blue\nb,\nc,red\n",
    "a semicolon in a table of tabs": "path\tlabel\na\tred;blue\nb\t\nc\tred\n",
    "spaces": "path, label\na, red | blue \nb, \nc, red\n",
    "another order": "path,label\na,blue|red\nb,\nc,red\n",
    "NIH's columns": (
        "Image Index,Finding Labels,Follow-up #,OriginalImage[Width,Height],\n"
        "a,red|blue,0,9,9,\nb,,1,9,9,\nc,red,0,9,9,\n"
    ),
    "columns": "path,blue,red\na,1,1\nb,0,0\nc,0,1\n",
    "columns of CelebA": "image_id,blue,red\na,1,1\nb,-1,-1\nc,-1,1\n",
    "columns of floats": "path,blue,red\na,1.0,1.0\nb,0.0,0.0\nc,0.0,1.0\n",
    "columns of booleans": "path,blue,red\na,True,True\nb,False,False\nc,False,True\n",
    "columns of semicolons": "path;blue;red\na;1;1\nb;0;0\nc;0;1\n",
    "an index of pandas": ",path,blue,red\n0,a,1,1\n1,b,0,0\n2,c,0,1\n",
    "an index of pandas, read again": "Unnamed: 0,path,blue,red\n0,a,1,1\n1,b,0,0\n2,c,0,1\n",
    "a second column of names": "id,path,blue,red\n7,a,1,1\n8,b,0,0\n9,c,0,1\n",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_images_have_none_one_or_several_classes(text):
    rows = rows_of(text)
    assert [(row.path, row.labels) for row in rows.rows] == [("a", ("blue", "red")), ("b", ()), ("c", ("red",))]
    assert rows.several
    assert rows.classes == (() if "abel" in text else ("blue", "red"))


def test_parts_stand_beside_columns_of_classes():
    rows = rows_of("path,blue,split,red\na,1,train,0\nb,0,test,1\nc,0,val,0\n")
    assert [(row.labels, row.part) for row in rows.rows] == [
        (("blue",), "train"),
        (("red",), "test"),
        ((), "validation"),
    ]
    assert rows.classes == ("blue", "red")


SINGLE = {
    "names": ("path,label\na,red\nb,blue\n", ["red", "blue"]),
    "numbers": ("path,label\na,0\nb,1\n", ["0", "1"]),
    "one other column": ("path,red\na,0\nb,1\n", ["0", "1"]),
    "columns of numbers beside a label": ("path,label,blue,red\na,x,0,1\nb,y,1,1\n", ["x", "y"]),
    "a semicolon between columns": ("path;label\na;red\nb;blue\n", ["red", "blue"]),
    "a comma in a name": ('path,label\na,"red, dark"\nb,blue\n', ["red, dark", "blue"]),
}


@pytest.mark.parametrize(("text", "labels"), SINGLE.values(), ids=SINGLE)
def test_tables_of_one_class_an_image_are_read_as_such(text, labels):
    rows = rows_of(text)
    assert [row.label for row in rows.rows] == labels
    assert (rows.several, rows.classes) == ("", ())


WRONG = {
    "a class twice": ("path,label\na,red|blue|red\n", "line 2 names the class 'red' twice"),
    "a class without a name": ("path,label\na,red|\nb,blue\n", "line 2: a class without a name is in 'red|'"),
    "bars alone": ("path,label\na,|\nb,blue\n", "line 2: a class without a name is in '|'"),
    "a table of one class an image, and none": ("path,label\na,red\nb,\n", "line 3 has no label"),
    "a 2": (
        "path,blue,red\na,0,1\nb,1,2\n",
        "it has 'path', 'blue', 'red'; and a column of a class has 0 and 1, or -1 and 1: 'red' has '2' in line 3",
    ),
    "a width": ("path,width,height\na,640,480\n", "must name a column of labels (label, class, target, …); it has"),
    "an empty cell": ("path,blue,red\na,0,1\nb,,1\n", "'blue' is empty in line 3"),
    "NaN": ("path,blue,red\na,0,1\nb,nan,1\n", "'blue' has 'nan' in line 3"),
    "a half": ("path,blue,red\na,0.5,1\n", "'blue' has '0.5' in line 2"),
    "0 and -1": ("path,blue,red\na,0,1\nb,1,1\nc,1,-1\n", "0 is in line 2, and -1 in line 4"),
    "0 and -1 in a row": ("path,blue,red\na,-1,0\n", "0 is in line 2, and -1 in line 2"),
    "a heading twice": ("path,red,red\na,1,1\n", "its first line names the class 'red' twice"),
    "no path": (
        "blue,red\n1,0\n",
        "must name a column of paths (path, file, image, image_id, …); it has 'blue', 'red'",
    ),
    "one column beside an index": ("Unnamed: 0,path,id\n0,a,1\n", "must name a column of labels"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told_in_one_line(text, said):
    with pytest.raises(ValueError) as error:
        rows_of(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
