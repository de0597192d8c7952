package views

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/clusterworks/deploy/deployer"
	"github.com/clusterworks/deploy/deployer/internal/domains"
)

// Domains prints a line for each domain, one for each path of it that leads
// elsewhere, and below them what is wrong.
func Domains(w io.Writer, r *deployer.DomainReport, color bool) {
	report := cleaned(*r)
	if len(report.Domains) == 0 {
		Line(w, "no load balancer of this manifest serves domains")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DOMAIN\tTARGET\tCERTIFICATE\tDAYS\tDNS\tSERVED\tREQ/S")
	for _, d := range report.Domains {
		certificate, days := "none", "-"
		if c := d.Certificate; c != nil {
			certificate, days = fmt.Sprintf("%s, by %s", c.From, c.Issuer), fmt.Sprint(c.Days)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Name, d.Target, certificate, days, resolved(d.DNS), served(d.Answers), rate(d.RequestsPerSecond))
		for _, p := range d.Paths {
			path, target, _ := strings.Cut(p, ": ")
			fmt.Fprintf(t, "  %s\t%s\t\t\t\t\t\n", path, target)
		}
	}
	t.Flush()
	wrong := 0
	for _, d := range report.Domains {
		for _, p := range d.Problems {
			if wrong == 0 {
				fmt.Fprintln(w)
			}
			wrong++
			fmt.Fprintf(w, "%s  %s: %s\n", paint(color, red, "fail"), d.Name, p)
		}
	}
	if wrong == 0 {
		fmt.Fprintln(w, "\nAll domains are served.")
	}
}

// resolved says how a name resolves.
func resolved(d domains.DNS) string {
	switch {
	case d.Judge() != "" && len(d.Found) > 0:
		return "elsewhere"
	case d.Judge() != "":
		return "none"
	case len(d.Found) > 0:
		return strings.Join(d.Found, ", ")
	}
	return "this machine"
}

// served says how many load balancers serve a domain.
func served(answers []domains.Answer) string {
	good := 0
	for _, a := range answers {
		if a.Problem == "" {
			good++
		}
	}
	return fmt.Sprintf("%d of %d", good, len(answers))
}

// rate says how much is asked; "-" if it is not known.
func rate(perSecond *float64) string {
	if perSecond == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", *perSecond)
}

// Records prints what a public DNS must have, as a zone file or as resources of
// Terraform.
func Records(w io.Writer, records []deployer.DomainRecord, resources bool) {
	write := domains.WriteZone
	if resources {
		write = domains.WriteTerraform
	}
	_ = write(w, records) // what a.print gives us takes everything
}

// Renewal prints what was done about certificates.
func Renewal(w io.Writer, r *deployer.Renewal, color bool) {
	renewal := cleaned(*r)
	if len(renewal.Domains) == 0 {
		Line(w, "no domain has tls = \"acme\"")
	}
	for _, d := range renewal.Domains {
		switch {
		case d.Renewed:
			Line(w, "%s has a new certificate", d.Name)
		case d.Error != "":
			fmt.Fprintf(w, "%s  %s: %s; the next try is due at %s UTC\n", paint(color, red, "fail"), d.Name, d.Error, d.Next.UTC().Format(time.DateTime))
		default:
			Line(w, "%s needs none before %s UTC", d.Name, d.Next.UTC().Format(time.DateTime))
		}
	}
	if renewal.Result != nil {
		Line(w, "Load balancers: %s", renewal.Result.Summary)
	}
}
