package cloudcontroller

import (
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/api"
)

// TestTooManyResources: a list that no app can have is refused before it is
// decoded, or asked for.
func TestTooManyResources(t *testing.T) {
	t.Parallel()
	c := newWorld(t).start("")
	u := c.register("dev@example.com")
	u.create("hello")
	list := func(n int) string { return "[" + strings.Repeat("{},", n-1) + "{}]" }
	u.call("POST", "/resources", list(10*api.MaxFiles+2)).fails(400, 100)
	u.upload("hello", nil, list(10*api.MaxFiles+2)).fails(400, 100)
	u.upload("hello", nil, list(api.MaxFiles+1)).fails(500, 402)
}
