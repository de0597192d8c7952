package bus

import (
	"strings"
	"testing"
)

func TestReadInfo(t *testing.T) {
	for text, want := range map[string]string{
		`{"nuid":"abcDEF123","size":200000,"chunks":2}`:                  "",
		`{"nuid":"abc","size":0,"chunks":0}`:                             "",
		`{"deleted":true}`:                                               "",
		`{"nuid":">","size":1,"chunks":1}`:                               "cannot be the name",
		`{"nuid":"a.b","size":1,"chunks":1}`:                             "cannot be the name",
		`{"nuid":"","size":1,"chunks":1}`:                                "cannot be the name",
		`{"nuid":"abc","size":10,"chunks":4294967295}`:                   "4294967295 chunks",
		`{"nuid":"abc","size":18446744073709551615,"chunks":4294967295}`: "more than",
		`[`: "unexpected end",
	} {
		_, err := readInfo([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// What the bus says of an object never makes a subject with wildcards, nor a fetch
// without an end.
func FuzzReadInfo(f *testing.F) {
	f.Add([]byte(`{"nuid":"abcDEF123","size":200000,"chunks":2}`))
	f.Add([]byte(`{"nuid":">","size":-1,"chunks":1,"deleted":false}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readInfo(data)
		if err != nil || info.Deleted {
			return
		}
		if strings.ContainsAny(info.NUID, ".*> \t\r\n") || info.NUID == "" || info.Size > maxPackage || uint64(info.Chunks) > info.Size {
			t.Errorf("%q became %+v", data, info)
		}
	})
}
