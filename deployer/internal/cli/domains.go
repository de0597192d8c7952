package cli

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/cli/views"
)

func domainsCommand(a *app) *cobra.Command {
	var zone, resources, ca, renew bool
	var r deployer.RenewRequest
	var q deployer.DomainsRequest
	c := &cobra.Command{
		Use:   "domains MANIFEST",
		Short: "Show each domain's target, certificate and DNS, and whether it is served",
		Long: `Shows every domain of the manifest: its target, who signed its certificate and how
many days are left, how the name resolves and should resolve, and whether each load
balancer serves it with that certificate. Everything is checked now, and nothing is
changed. Requests a second are those of the last minute at all load balancers, if
these have an access_log.
With --zone it prints the records that the public DNS needs, as a zone file; with
--terraform, as Terraform resources; with --ca, the CAs that clients must trust for
domains with tls = "internal".
With --renew it gets the certificates of domains with tls = "acme" that are missing
or due, and installs them on the load balancers. Run it every day.
Exit codes: 0 all is well, 3 something is wrong with a domain.`,
		Example: `  deploy domains examples/cluster.hcl
  deploy domains cluster.hcl --zone >> shop.example.zone
  deploy domains cluster.hcl --ca > ca.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := a.deployer(args[0], nil)
			if err != nil {
				return err
			}
			switch {
			case renew:
				return a.renew(cmd, args[0], r)
			case ca:
				text, err := d.Authority()
				if err != nil {
					return err
				}
				return a.answer(map[string]string{"ca": text}, func(w io.Writer, _ bool) { _, _ = io.WriteString(w, text) })
			case zone, resources:
				records, err := d.DomainRecords()
				if err != nil {
					return err
				}
				return a.answer(records, func(w io.Writer, _ bool) { views.Records(w, records, resources) })
			}
			report, err := d.Domains(cmd.Context(), q)
			if err != nil {
				return err
			}
			err = a.answer(report, func(w io.Writer, color bool) { views.Domains(w, report, color) })
			if err == nil && !report.Healthy() {
				return exitCode(exitFailing)
			}
			return err
		},
	}
	c.Flags().BoolVar(&zone, "zone", false, "print the records for DNS as a zone file")
	c.Flags().BoolVar(&resources, "terraform", false, "print the records for DNS as Terraform resources")
	c.Flags().BoolVar(&ca, "ca", false, "print the CAs of certificates with tls = \"internal\"")
	c.Flags().BoolVar(&renew, "renew", false, "get missing and due certificates from their CA")
	c.Flags().BoolVar(&r.Force, "force", false, "with --renew: also renew certificates that are not due, such as after a key has leaked")
	c.Flags().StringVar(&q.DNSServer, "dns-server", "", "ask this DNS server, `host:port`, instead of this machine's")
	c.MarkFlagsMutuallyExclusive("zone", "terraform", "ca", "renew")
	return a.changing(c)
}

// renew gets what is due, and says what came of it.
func (a *app) renew(cmd *cobra.Command, manifest string, q deployer.RenewRequest) error {
	d, err := a.deployer(manifest, a.aloud())
	if err != nil {
		return err
	}
	r, err := d.Renew(cmd.Context(), q)
	if r != nil && (err == nil || len(r.Domains) > 0) {
		err = errors.Join(err, a.answer(r, func(w io.Writer, color bool) { views.Renewal(w, r, color) }))
	}
	if err == nil && r.Failed() {
		return exitCode(exitFailing)
	}
	return err
}
