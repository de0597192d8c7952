package api

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestArgumentsKeepTheirBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Argument(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		data, err := json.Marshal([]Argument{want})
		if err != nil {
			t.Fatal(err)
		}
		var got []Argument
		if err := json.Unmarshal(data, &got); err != nil || len(got) != 1 || got[0] != want {
			t.Fatalf("%q became %q as %s: %v", want, got, data, err)
		}
	})
}
