package cloudcontroller

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/clusterworks/deploy/jobs/cloud_controller/internal/blob"
	"github.com/clusterworks/deploy/jobs/component/componenttest"
	"github.com/clusterworks/deploy/jobs/nats/natstest"
)

// TestPeersSpeakTLS: controllers copy to each other with certificates of the
// deployment's CA, and serve nothing in plain text.
func TestPeersSpeakTLS(t *testing.T) {
	t.Parallel()
	ca := componenttest.NewAuthority(t)
	bus := componenttest.Bus(t, natstest.Users(t, "cloud_controller"), ca.Bus(t))
	conn, err := nats.Connect(bus.ClientURL(), nats.RootCAs(ca.File))
	must(t, err)
	t.Cleanup(conn.Close)
	w := &world{t: t, bus: bus, conn: conn}
	name, _ := postgres.Database(t)
	ports := []int{componenttest.FreePort(t), componenttest.FreePort(t)}
	start := func(own, other int) *cc {
		certificate, key := ca.Issue(t, "127.0.0.1")
		return w.start(postgresSettings(name) + fmt.Sprintf("ca: %s\ninternal_tls: {certificate: %s, key: %s}\ninternal_plaintext: false\ninternal_tls_port: %d\npeers: [\"127.0.0.1:%d\"]\n",
			ca.File, certificate, key, own, other))
	}
	first, second := start(ports[0], ports[1]), start(ports[1], ports[0])
	u := first.register("dev@example.com")
	u.create("hello")
	u.upload("hello", zipOf(t, map[string]string{"app.js": "copied"}), "[]").want(200)
	app := u.stored("hello")
	if !second.blobs.Has(blob.Blob{Kind: blob.Package, App: app.ID, SHA1: app.PackageHash}) {
		t.Error("the second has no copy of the package when the first acknowledges it")
	}
	must(t, second.working().peers.Sync(t.Context()))
}
