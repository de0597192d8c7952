package health

import (
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/agent/api"
)

func TestFacts(t *testing.T) {
	for _, tc := range []struct {
		texts []string
		want  map[string]string
	}{
		{nil, nil},
		{[]string{"isolation=full", "cores=4 of 8"}, map[string]string{"isolation": "full", "cores": "4 of 8"}},
		{[]string{"a=1", "a=2"}, map[string]string{"a": "2"}},
		{[]string{"", "=", "a", "a=", "=b", "A=b", "a b=c", "a= b", "a=b ", "1=2", "a=\x1b[31m", "a=b\x00c", "a=ü"}, nil},
		{[]string{strings.Repeat("n", 32) + "=" + strings.Repeat("v", 64)}, map[string]string{strings.Repeat("n", 32): strings.Repeat("v", 64)}},
		{[]string{strings.Repeat("n", 33) + "=v", "n=" + strings.Repeat("v", 65)}, nil},
	} {
		if got := factsOf(http.Header{factHeader: tc.texts}); !maps.Equal(got, tc.want) {
			t.Errorf("%q: %v, want %v", tc.texts, got, tc.want)
		}
	}
	var many []string
	for n := range 2 * api.MaxFacts {
		many = append(many, "n"+strconv.Itoa(n)+"=x")
	}
	if got := factsOf(http.Header{factHeader: many}); len(got) != api.MaxFacts {
		t.Errorf("%d facts", len(got))
	}
}
